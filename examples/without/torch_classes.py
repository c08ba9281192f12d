"""The class map of an image with an exported run of classes, with nothing but torch, numpy and Pillow.

everseg export runs/eir --to torch --out classes-torch
python torch_classes.py classes-torch image.png map.png
"""

import json
import logging
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageColor

folder, path, out = Path(sys.argv[1]), *sys.argv[2:4]
legend = json.loads((folder / "legend.json").read_text())
logging.disable(logging.WARNING)  # torch would print its traceback of a damaged file.
try:
    module = torch.export.load(folder / "model.pt2").module()
except Exception as error:  # torch's for damaged files are of several kinds.
    print(f"error: cannot load {folder}/model.pt2 ({error}); export the run again", file=sys.stderr)
    sys.exit(2)
image = Image.open(path).convert("RGB")
size = image.size
if legend["image"]["size"] != "any":  # A transformer's program takes images of one size only.
    image = image.resize(legend["image"]["size"], Image.Resampling.BILINEAR)
with torch.no_grad():
    _, channels = module(torch.tensor(np.asarray(image)).permute(2, 0, 1)[None])
found = Image.fromarray(channels[0].numpy()).resize(size, Image.Resampling.NEAREST)
found.putpalette([part for one in legend["classes"] for part in ImageColor.getrgb(one["colour"])])
found.save(out)
for number, one in enumerate(legend["classes"]):
    print(f"{one['name']}: {100 * float((channels == number).float().mean()):.1f} %")
