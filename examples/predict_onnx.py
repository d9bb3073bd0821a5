"""Score one image with an ONNX file of `feclip export`: numpy, Pillow, onnxruntime; no feclip, no torch.

python examples/predict_onnx.py model.onnx image.jpg
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
recipe = json.loads(session.get_modelmeta().custom_metadata_map["feclip"])
if (recipe["input"]["valid_region"], recipe["input"]["jpeg_decoding"]) != ("letterbox", "full"):
    sys.exit(f"This example knows valid_region letterbox and jpeg_decoding full, the model wants {recipe['input']}.")
size = recipe["input"]["image_size"]  # pixels
image = ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB")
scale = size / max(image.size)
width, height = (max(1, min(size, round(side * scale))) for side in image.size)
if recipe["input"]["resize"] == "squash":
    width = height = size
left, top = (size - width) // 2, (size - height) // 2
content = np.s_[:, top : top + height, left : left + width]

batch_size = session.get_inputs()[0].shape[0]  # fixed when it was exported; the same image fills it
pixels = np.full((batch_size, size, size, 3), recipe["input"]["padding_color"], np.uint8)
pixels[content] = image.resize((width, height), Image.Resampling.BICUBIC)
valid_pixels = np.zeros((batch_size, size, size), np.bool_)
valid_pixels[content] = True

names = [output.name for output in session.get_outputs()]
found = dict(zip(names, session.run(names, {"pixels": pixels, "valid_pixels": valid_pixels}), strict=True))
logit = found["image_logit"][0]
print(f"P(abnormal) {1 / (1 + np.exp(-logit)):.4f}, image_logit {logit:.6f}, map_max {found['map_max'][0]:.6f}")
decision = recipe["decision"] or {}
if thresholds := decision.get("thresholds"):  # None where each group has thresholds of its own
    exceeded = [found[name][0] > threshold for name, threshold in thresholds.items()]
    anomalous = any(exceeded) if decision["anomalous_if"] == "any" else all(exceeded)
    print(f"{recipe['class_names'][int(anomalous)]}, thresholds {thresholds}")
