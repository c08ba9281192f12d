"""The class map of an image with an exported run of classes, with nothing but onnxruntime, numpy and Pillow.

everseg export runs/eir --to onnx --out classes-onnx
python onnx_classes.py classes-onnx image.png map.png
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageColor

folder, path, out = Path(sys.argv[1]), *sys.argv[2:4]
try:
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
except Exception as error:  # onnxruntime has one of its own for each fault of a file.
    print(f"error: cannot load {folder}/model.onnx ({error}); export the run again", file=sys.stderr)
    sys.exit(2)
legend = json.loads(session.get_modelmeta().custom_metadata_map["legend"])
image = Image.open(path).convert("RGB")
size = image.size

if legend["image"]["size"] != "any":  # A transformer's graph takes images of one size only.
    image = image.resize(legend["image"]["size"], Image.Resampling.BILINEAR)
_, channels = session.run(None, {"image": np.asarray(image).transpose(2, 0, 1)[None]})
found = Image.fromarray(channels[0]).resize(size, Image.Resampling.NEAREST)
found.putpalette([part for one in legend["classes"] for part in ImageColor.getrgb(one["colour"])])
found.save(out)
counts = np.bincount(channels.ravel(), minlength=len(legend["classes"]))
for one, count in zip(legend["classes"], counts, strict=True):
    print(f"{one['name']}: {100 * count / channels.size:.1f} %")
