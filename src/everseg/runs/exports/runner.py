"""Run exported graphs in onnxruntime, to measure parity and the loss of quantisation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import Tensor

from everseg.models.promptable.passes import in_passes, objects_of
from everseg.models.promptable.protocol import FramePrompts, to_frame
from everseg.models.promptable.sam2 import Sam2
from everseg.runs.exports.files import session
from everseg.runs.exports.graphs import FRAME, MASK, Base
from everseg.types import PromptPrediction, Query

ENCODER, TAIL, DECODER, ROUTER = "encoder.onnx", "tail.onnx", "decoder.onnx", "router.onnx"

Feeds = dict[str, NDArray[Any]]


def module_file(name: str) -> str:
    """The file of a module's weights beside the graphs."""
    return f"module.{name}.safetensors"


class Runner:
    """The graphs in a folder. `base` stretches and normalises pixels, and nothing else of everseg is used."""

    def __init__(self, folder: Path, base: Base) -> None:
        self.folder, self.base, self.side = folder, base, base.image_size
        self.two = isinstance(base, Sam2)
        self.encoder, self.decoder = session(folder / ENCODER), session(folder / DECODER)
        self.tail = session(folder / TAIL) if (folder / TAIL).is_file() else None
        self.router = session(folder / ROUTER) if (folder / ROUTER).is_file() else None
        self.embedding = "image_embed" if self.two else "image_embeddings"

    def encode(self, image: Tensor) -> Feeds:
        """What the decoder takes of an image (3, H, W) uint8."""
        if self.two:
            given = {"image": self.base.pixels([image]).cpu().numpy()}
        else:
            given = {"input_image": image.permute(1, 2, 0).float().numpy()}
        names = [output.name for output in self.encoder.get_outputs()]
        return dict(zip(names, self.encoder.run(None, given), strict=True))

    def answer(self, encoded: Feeds) -> tuple[str, Feeds]:
        """The router's answer for an image, and all that it says."""
        import json

        assert self.router is not None
        given = {self.router.get_inputs()[0].name: encoded[self.embedding]}
        names = [output.name for output in self.router.get_outputs()]
        found = dict(zip(names, self.router.run(None, given), strict=True))
        answers = json.loads(self.router.get_modelmeta().custom_metadata_map["answers"])
        return answers[int(found["answer"][0])], found

    def decode(
        self,
        encoded: Feeds,
        prompts: FramePrompts,
        size: tuple[int, int],
        module: str | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits (N, 1, h, w) and predicted IoU (N, 1) of objects (N, 1, ...) of an image of size (H, W)."""
        points, labels = self._points(prompts)
        about: Feeds = {"point_coords": points, "point_labels": labels}
        if not self.two:
            scale = np.array([size[1], size[0]], np.float32) / self.side * FRAME / max(size)
            about = {**about, "point_coords": points * scale, "orig_im_size": np.array(size, np.float32)}
        if self.tail is not None:
            weights = load_file(self.folder / module_file(str(module)))
            needed = {i.name for i in self.tail.get_inputs()}
            given = {**encoded, **about, **weights}
            (image,) = self.tail.run(None, {name: given[name] for name in needed})
            fine = {k: np.repeat(v, len(points), 0) for k, v in encoded.items() if k != self.embedding}
            encoded = {**fine, self.embedding: image}
        mask = (len(points), 1, self.side // 4, self.side // 4) if self.two else (1, 1, MASK, MASK)
        about |= {"mask_input": np.zeros(mask, np.float32), "has_mask_input": np.zeros(1, np.float32)}
        outputs = [output.name for output in self.decoder.get_outputs()]
        found = dict(zip(outputs, self.decoder.run(None, {**encoded, **about}), strict=True))
        logits = found["masks"] if self.two else found["low_res_logits"]
        return torch.from_numpy(logits), torch.from_numpy(found["iou_predictions"])

    def predict(self, queries: Sequence[Query], module: str | None = None) -> list[PromptPrediction]:
        """As a learner predicts."""
        out = []
        for query in queries:
            size = (int(query.image.shape[-2]), int(query.image.shape[-1]))
            encoded = self.encode(query.image)

            def run(
                rows: list[int], prompts: FramePrompts, encoded: Feeds = encoded, size: tuple[int, int] = size
            ) -> tuple[Tensor, Tensor]:
                return self.decode(encoded, prompts, size, module)

            found = in_passes(objects_of(to_frame(query.prompts, size, self.side)), run)
            logits, iou = zip(*found, strict=True)
            out.append(PromptPrediction(torch.cat(logits), torch.cat(iou), size, None))
        return out

    def _points(self, prompts: FramePrompts) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Clicks, then corners, as one list: (N, P, 2) and (N, P)."""
        columns: list[tuple[Tensor, Tensor]] = []
        if prompts.points is not None and prompts.labels is not None:
            columns.append((prompts.points[:, 0], prompts.labels[:, 0].float()))
        if prompts.boxes is not None:
            corners = prompts.boxes[:, 0].reshape(-1, 2, 2)
            columns.append((corners, torch.tensor([2.0, 3.0]).expand(len(corners), 2)))
        elif not self.two:
            rows = len(columns[0][0])
            columns.append((torch.zeros(rows, 1, 2), -torch.ones(rows, 1)))
        points, labels = (torch.cat(parts, 1).numpy() for parts in zip(*columns, strict=True))
        return points.astype(np.float32), labels.astype(np.float32)
