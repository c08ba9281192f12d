"""Compute the statistics of natural images that come with the embedded base, from its training images.

    python tools/natural.py --voc voc2012_256 --folder coco128_seg/images

`--voc` is the PASCAL VOC layout that `train_tiny.py` was given, of which the images of train_aug are taken;
`--folder` a further folder of images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from everseg.domains.natural import natural_statistics
from everseg.files import save_state
from everseg.models.promptable.load import STATISTICS, load_base


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--voc", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=STATISTICS)
    parser.add_argument("--count", type=int, default=600, help="images drawn of all")
    args = parser.parse_args()
    names = (args.voc / "ImageSets" / "Segmentation" / "train_aug.txt").read_text().split()
    images = [args.voc / "JPEGImages" / f"{name}.jpg" for name in names]
    images += sorted(path for path in args.folder.iterdir() if path.suffix == ".jpg")
    save_state(args.out, natural_statistics(load_base(), images, args.count))
    print(f"{args.out}: {min(args.count, len(images))} of {len(images)} images")


if __name__ == "__main__":
    main()
