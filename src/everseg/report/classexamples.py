"""Pictures of a run of classes: image, truth, prediction and what is wrong, coloured by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from everseg.classes.confusion import Confusion
from everseg.classes.scoring import Label
from everseg.data import centre_crop
from everseg.data.samples import take_evenly
from everseg.pictures.encode import jpeg
from everseg.pictures.palette import COLOURS, VOID_COLOUR, Colour, class_colour
from everseg.pictures.tile import fitted, picture_of
from everseg.report.data import ClassExample
from everseg.report.html import number, picture, section, swatch, text
from everseg.types import VOID, Stage

Pixels = NDArray[np.uint8]

MISSED, INVENTED, MIXED = (240, 228, 66), (17, 17, 17), (230, 0, 170)
ERRORS = {
    "a class taken for background": MISSED,
    "background taken for a class": INVENTED,
    "one class taken for another": MIXED,
}
"""No colours of the first classes."""
LONGEST = 256
SPECK = 0.002
"""Of an image: a class that covers less of it is not named below."""


def class_examples(
    predict: Label,
    stages: Sequence[Stage],
    count: int = 3,
    size: Literal["original"] | int = 512,
) -> list[ClassExample]:
    """Up to `count` test images for each learned step, predicted: images that have a class of that step,
    spread evenly over the list of them, none twice.

    stages: those that were learned, in order; the last one's test images and labels are shown. size: as of
    `ClassScoreConfig`, so that what is shown is what is scored.
    """
    if not stages:
        return []
    tested = stages[-1].test
    present = _present(tested)
    free = np.ones(len(tested), bool)
    out = []
    first = 1
    for stage in stages:
        own = present[:, first : first + len(stage.classes)].any(1)
        first += len(stage.classes)
        places = take_evenly(np.flatnonzero(own & free).tolist(), count)
        free[places] = False
        samples = [tested[place] for place in places]
        if size != "original":
            samples = [centre_crop(sample, size) for sample in samples]
        predictions = predict([sample.query() for sample in samples]) if samples else []
        out += [
            ClassExample(stage.name, sample.name, sample.image, sample.labels, predicted.cpu())
            for sample, predicted in zip(samples, predictions, strict=True)
        ]
    return out


def _present(samples: Sequence[Any]) -> NDArray[np.bool_]:
    """Which channels each sample has, known or found by decoding."""
    known: NDArray[np.bool_] | None = getattr(samples, "present", None)
    if known is None:
        known = np.stack([np.bincount(s.labels.flatten().numpy(), minlength=256) > 0 for s in samples])
    return known


def class_gallery(examples: Sequence[ClassExample], names: Sequence[str], steps: Sequence[str]) -> str:
    """A strip of four pictures for each example, by the step whose classes it was chosen for.

    names: of the channels, the background first. steps: of the run; others follow.
    """
    parts = []
    groups = dict.fromkeys([*steps, *(example.step for example in examples)])
    for step in groups:
        strips = [_strip(example, names) for example in examples if example.step == step]
        if strips:
            parts.append(f"<h3>{text(step)}</h3>\n" + "\n".join(strips))
    if not parts:
        return ""
    errors = "".join(_entry(colour, told) for told, colour in ERRORS.items())
    parts.insert(0, f'<p class="legend">{errors}{_entry(VOID_COLOUR, "void in the truth: not asked")}</p>')
    return section(
        "Pictures",
        "\n".join(parts),
        "Test images after the last step, under the step some of whose classes they show; spread evenly over "
        "all that do. Classes have the same colour everywhere; in grey is what is called background.",
    )


def _strip(example: ClassExample, names: Sequence[str]) -> str:
    truth, said = example.truth, example.predicted
    asked = truth != VOID
    wrong = float((truth != said)[asked].float().mean()) if bool(asked.any()) else 0.0
    confusion = Confusion(names)
    confusion.add(said, truth)
    ious = confusion.iou("exclude")
    mean = float(ious.nanmean()) if bool((~ious.isnan()).any()) else float("nan")
    tiles = [
        (_fit(example.image), "image", ""),
        (coloured(example.image, truth), "truth", ""),
        (coloured(example.image, said), "this run", f"mIoU {number(mean)}"),
        (wrong_pixels(example.image, truth, said), "wrong", f"{100 * wrong:.1f} %"),
    ]
    pictures = "".join(
        f"<figure>{picture(jpeg(drawn), f'{example.name}: {title} {score}'.strip())}"
        f"<figcaption>{text(title)}<b>{text(score)}</b></figcaption></figure>"
        for drawn, title, score in tiles
    )
    pixels = truth.numel()
    in_truth, in_said = (torch.bincount(x.flatten().long(), minlength=256) for x in (truth, said))
    legend = ""
    for channel in range(1, len(names)):
        if max(int(in_truth[channel]), int(in_said[channel])) >= max(1, SPECK * pixels):
            told = f"IoU {number(float(ious[channel]))}" if in_truth[channel] else "not there"
            legend += _entry(class_colour(channel), names[channel], told)
    return (
        f'<div class="strip"><p class="name">{text(example.name)}</p><div class="tiles">{pictures}</div>'
        f'<p class="legend">{legend}</p></div>'
    )


def _entry(colour: Colour, name: str, told: str = "") -> str:
    extra = f' <span class="hint">{text(told)}</span>' if told else ""
    return f"<span>{swatch(colour)}{text(name)}{extra}</span> "


def coloured(image: Tensor, labels: Tensor) -> Image.Image:
    """The classes of an image in their colours over its greys. image: (3, H, W) uint8; labels: (H, W)."""
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
    picture = picture_of(image)
    return picture.resize(fitted(*picture.size, LONGEST)[0], Image.Resampling.BOX)


def _shrunk(labels: Tensor) -> Pixels:
    whole = Image.fromarray(labels.cpu().numpy().astype(np.uint8))
    return np.asarray(whole.resize(fitted(*whole.size, LONGEST)[0], Image.Resampling.NEAREST))
