"""Predicted masks over their images, with napari.

everseg predict runs/clinic scans/ --prompts clicks.csv --format labels --out predicted
python napari_masks.py scans predicted
"""

import sys
from pathlib import Path

import napari
import numpy as np
from PIL import Image

images, predicted = Path(sys.argv[1]), Path(sys.argv[2])
viewer = napari.Viewer(show="--no-window" not in sys.argv)
for path in sorted(images.glob("*.png")):
    labels = predicted / f"{path.stem}_labels.png"
    if labels.is_file():
        viewer.add_image(np.asarray(Image.open(path).convert("RGB")), name=path.stem)
        viewer.add_labels(np.asarray(Image.open(labels)).astype(int), name=f"{path.stem} labels")
print(f"{len(viewer.layers) // 2} images with masks")
if "--no-window" not in sys.argv:
    napari.run()
