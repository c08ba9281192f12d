"""How samples with prompts and masks are checked and drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from everseg.data.described import Described
from everseg.pictures.palette import BOX, ON, TRUTH, Colour
from everseg.pictures.sheet import INK, enlarged, framed
from everseg.pictures.tile import draw_click, picture_of
from everseg.text import plural
from everseg.types import PromptSample
from everseg.types.pixels import stretched

RESOLUTION = 1024
"""The side of the square that SAM sees."""

LARGE = 0.6
"""Mean share of the object from which on a split's masks may be inverted."""


class DomainView:
    """The `View` of a stream of domains."""

    marks: tuple[tuple[str, Colour], ...] = (("box", BOX), ("click", ON), ("object", TRUTH))

    scored_by_name = True

    def labels(self, sample: PromptSample) -> set[int]:
        return set()

    def prompts(self, samples: Described[Any], sample: PromptSample) -> str:
        rule, given = samples.rule, sample.prompts
        origin = "given" if rule is None else "stored" if "stored" in rule.kind else "drawn"
        count = 0 if given.points is None else given.points.shape[1]
        parts = [f"{plural(count, f'{origin} click')}"] if count else []
        return " + ".join(parts + (["box"] if given.boxes is not None else []))

    def foreground(self, sample: PromptSample) -> NDArray[np.bool_]:
        return np.asarray(sample.masks.numpy())

    def faults(self, sample: PromptSample) -> Iterator[tuple[Literal["error", "warning"], str]]:
        if not sample.masks.any():
            yield "error", f"the mask of {sample.name} is empty; remove the sample"
            return
        if sample.masks.all():
            yield (
                "warning",
                f"the mask of {sample.name} covers the whole image; see whether it is inverted",
            )
        if max(sample.masks.shape[1:]) > RESOLUTION and not stretched(sample.masks, RESOLUTION).any():
            yield (
                "warning",
                f"the mask of {sample.name} is so small that nothing is left of it at {RESOLUTION} x "
                f"{RESOLUTION} pixels, SAM's resolution; crop the image around the object",
            )

    def doubts(self, share: float) -> Iterator[str]:
        if share > LARGE:
            yield (
                f"the object covers {share:.0%} of the pixels on average; if the masks are inverted, set "
                "mask_values to the value of the object, such as mask_values: [0]"
            )

    def tile(self, sample: PromptSample, side: int) -> Image.Image:
        from scipy import ndimage  # for sheets alone; a check draws nothing

        pixels, scale = enlarged(picture_of(sample.image), side)
        size = (pixels.shape[1], pixels.shape[0])
        for mask in sample.masks.numpy():
            small = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
            inside = np.asarray(small) > 127
            # A dark line around the outline, so that it is seen on any image.
            pixels[ndimage.binary_dilation(inside, iterations=2) & ~inside] = INK
            pixels[inside & ~ndimage.binary_erosion(inside, iterations=1)] = TRUTH
        tile, place = framed(pixels, side)
        _draw_prompts(ImageDraw.Draw(tile), sample, scale, place)
        return tile


def _draw_prompts(
    draw: ImageDraw.ImageDraw, sample: PromptSample, scale: float, place: tuple[int, int]
) -> None:
    left, top = place
    prompts = sample.prompts
    for box in [] if prompts.boxes is None else prompts.boxes.tolist():
        x0, y0, x1, y1 = (v * scale for v in box)
        draw.rectangle((left + x0, top + y0, left + x1 + scale, top + y1 + scale), outline=BOX, width=2)
    if prompts.points is None or prompts.labels is None:
        return
    points, labels = prompts.points.reshape(-1, 2).tolist(), prompts.labels.reshape(-1).tolist()
    for (x, y), label in zip(points, labels, strict=True):
        draw_click(draw, left + (x + 0.5) * scale, top + (y + 0.5) * scale, int(label))
