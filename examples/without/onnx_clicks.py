"""A click on an image with an exported run, with nothing but onnxruntime, numpy and Pillow.

everseg export runs/clinic --to onnx --routed --out clinic-onnx
python onnx_clicks.py clinic-onnx image.png 411 230 mask.png
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

folder, path, x, y, out = Path(sys.argv[1]), *sys.argv[2:6]
image = np.asarray(Image.open(path).convert("RGB"), np.float32)
height, width = image.shape[:2]
try:
    encoder, decoder = (onnxruntime.InferenceSession(folder / f"{n}.onnx") for n in ("encoder", "decoder"))
except Exception as error:  # onnxruntime has one of its own for each fault of a file.
    print(f"error: cannot load the graphs in {folder} ({error}); export the run again", file=sys.stderr)
    sys.exit(2)
(embedding,) = encoder.run(None, {"input_image": image})

# Coordinates of an image whose longer side is 1024; a click without a box ends with a point of padding.
click = np.array([[[float(x), float(y)], [0, 0]]], np.float32) * 1024 / max(height, width)
masks, iou, _ = decoder.run(
    None,
    {
        "image_embeddings": embedding,
        "point_coords": click,
        "point_labels": np.array([[1, -1]], np.float32),
        "mask_input": np.zeros((1, 1, 256, 256), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
        "orig_im_size": np.array([height, width], np.float32),
    },
)
Image.fromarray((masks[0, 0] > 0).astype(np.uint8) * 255).save(out)
print(f"{int((masks[0, 0] > 0).sum())} pixels, predicted IoU {iou[0, 0]:.3f}")

if (folder / "router.onnx").is_file():
    router = onnxruntime.InferenceSession(str(folder / "router.onnx"))
    answer, _, p_values = router.run(None, {"image_embeddings": embedding})
    about = {key: json.loads(v) for key, v in router.get_modelmeta().custom_metadata_map.items()}
    print(about["answers"][int(answer[0])], dict(zip(about["domains"], p_values[0].tolist(), strict=True)))
