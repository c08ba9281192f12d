"""A click on an image with an exported run, with transformers, numpy and Pillow.

everseg export runs/hospital --to sam --out hospital-sam
python transformers_sam.py hospital-sam image.png 411 230 mask.png
"""

import sys

import numpy as np
import torch
from PIL import Image
from transformers import SamModel

folder, path, x, y, out = sys.argv[1:6]
model = SamModel.from_pretrained(folder).eval()
side = model.config.vision_config.image_size
image = Image.open(path).convert("RGB")

# everseg stretches an image to the model's square, and so are the clicks.
square = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), np.float32)
pixels = (square - (123.675, 116.28, 103.53)) / (58.395, 57.12, 57.375)
click = [float(x) * side / image.width, float(y) * side / image.height]
with torch.no_grad():
    found = model(
        pixel_values=torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None],
        input_points=torch.tensor([[[click]]], dtype=torch.float32),
        input_labels=torch.ones(1, 1, 1, dtype=torch.int64),
        multimask_output=False,
    )
size = (image.height, image.width)
logits = torch.nn.functional.interpolate(found.pred_masks[0], size=size, mode="bilinear")
mask = (logits[0, 0] > 0).numpy()
Image.fromarray(mask.astype(np.uint8) * 255).save(out)
print(f"{int(mask.sum())} pixels, predicted IoU {float(found.iou_scores[0, 0, 0]):.3f}")
