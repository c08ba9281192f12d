"""Hold out a part of a VOC folder's training images, to choose settings by.

    python benchmarks/held_out.py $EVERSEG_DATA/voc2012_256 OUT [--share 0.1]

Writes OUT/voc2012_256, in which pictures and labels are links to the given ones and whose image lists are
`train_aug` (what is left to learn from) and `val` (what is held out), so that OUT can be a stream's root in
place of the folder that holds the given one: `EVERSEG_DATA=OUT python benchmarks/classes.py
examples/voc256.yaml ...`. An image is held out by a hash of its name, the same on every machine.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("voc", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--share", type=float, default=0.1)
    given = parser.parse_args()
    names = (given.voc / "ImageSets/Segmentation/train_aug.txt").read_text().split()
    drawn = {name: int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32 for name in names}
    out = given.out / given.voc.name
    (out / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
    for folder in ("JPEGImages", "SegmentationClassAug"):
        if not (out / folder).exists():
            (out / folder).symlink_to((given.voc / folder).resolve())
    for split, held in (("train_aug", False), ("val", True)):
        chosen = [name for name in names if (drawn[name] < given.share) == held]
        (out / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(chosen) + "\n")
        print(f"{split}: {len(chosen)} images")


if __name__ == "__main__":
    main()
