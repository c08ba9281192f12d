"""Test images: the true class map, the predicted one and what is wrong, coloured by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from everseg.classes.confusion import Confusion
from everseg.pictures.palette import COLOURS, VOID_COLOUR, class_colour
from everseg.pictures.tile import fitted, picture_of
from everseg.report.cells import Swatch, css, number, picture
from everseg.report.data import MapExample, ReportData
from everseg.types import VOID

Pixels = NDArray[np.uint8]

MISSED, INVENTED, MIXED = (240, 228, 66), (17, 17, 17), (230, 0, 170)
ERRORS = {
    "a class taken for background": MISSED,
    "background taken for a class": INVENTED,
    "one class taken for another": MIXED,
}
"""In colours that the first classes do not have."""
LONGEST = 256
SPECK = 0.002
"""Share of an image: a class that covers less of it is not named below."""


def context(data: ReportData) -> dict[str, Any] | None:
    """A strip of four pictures for each example, by the step whose classes it was chosen for."""
    groups = []
    for step in dict.fromkeys([*data.results.stages, *(example.step for example in data.maps)]):
        strips = [_strip(example, data.results.columns) for example in data.maps if example.step == step]
        if strips:
            groups.append((step, strips))
    if not groups:
        return None
    errors = [Swatch(css(colour), said) for said, colour in ERRORS.items()]
    return {"groups": groups, "errors": [*errors, Swatch(css(VOID_COLOUR), "void in the truth: not scored")]}


def _strip(example: MapExample, names: Sequence[str]) -> dict[str, Any]:
    """names: of the channels, the background first."""
    truth, said = example.truth, example.predicted
    asked = truth != VOID
    wrong = float((truth != said)[asked].float().mean()) if bool(asked.any()) else 0.0
    confusion = Confusion(names)
    confusion.add(said, truth)
    ious = confusion.iou("exclude")
    mean = float(ious.nanmean()) if bool((~ious.isnan()).any()) else float("nan")
    in_truth, in_said = (torch.bincount(x.flatten().long(), minlength=256) for x in (truth, said))
    shown = [
        channel
        for channel in range(1, len(names))
        if max(int(in_truth[channel]), int(in_said[channel])) >= max(1, SPECK * truth.numel())
    ]
    return {
        "name": example.name,
        "pictures": [
            picture(_fit(example.image), "image"),
            picture(coloured(example.image, truth), "truth"),
            picture(coloured(example.image, said), "this run", f"mIoU {number(mean)}"),
            picture(wrong_pixels(example.image, truth, said), "wrong", f"{100 * wrong:.1f} %"),
        ],
        "legend": [
            Swatch(
                css(class_colour(channel)),
                names[channel],
                f"IoU {number(float(ious[channel]))}" if in_truth[channel] else "not in the truth",
            )
            for channel in shown
        ],
    }


def coloured(image: Tensor, labels: Tensor) -> Image.Image:
    """The classes of an image in their colours over its greys.

    image: (3, H, W) uint8.
    labels: (H, W).
    """
    return _over_grey(image, COLOURS, _shrunk(labels))


def wrong_pixels(image: Tensor, truth: Tensor, said: Tensor) -> Image.Image:
    """Where the prediction is wrong, by the kind of error, over the image's greys; void is never wrong."""
    true, given = _shrunk(truth), _shrunk(said)
    kind = np.where(given == 0, 1, np.where(true == 0, 2, 3)).astype(np.uint8)
    kind[(true == given) | (true == VOID)] = 0
    return _over_grey(image, np.array([(0, 0, 0), *ERRORS.values()], np.uint8), kind)


def _over_grey(image: Tensor, colours: Pixels, kind: Pixels) -> Image.Image:
    """kind: (h, w), 0 where the grey is to show, else the row of `colours`."""
    grey = np.asarray(_fit(image).convert("L"), np.float64)
    # Pale, so that every colour stands out and the edges of things are still seen.
    pixels = np.repeat((0.55 * grey + 70)[..., None], 3, axis=2)
    on = kind != 0
    pixels[on] = 0.12 * pixels[on] + 0.88 * colours[kind[on]]
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def _fit(image: Tensor) -> Image.Image:
    whole = picture_of(image)
    return whole.resize(fitted(*whole.size, LONGEST)[0], Image.Resampling.BOX)


def _shrunk(labels: Tensor) -> Pixels:
    whole = Image.fromarray(labels.cpu().numpy().astype(np.uint8))
    return np.asarray(whole.resize(fitted(*whole.size, LONGEST)[0], Image.Resampling.NEAREST))
