"""Options that many readers share, so that each reader declares only its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

from everseg.data.decoding import Bands, Decoding, Window
from everseg.data.domains.prompts import PromptRule


class MapOptions(TypedDict, total=False):
    """Options of readers of class maps.

    part: [start, stop] of the sorted images.
    limit: maximum number of samples, evenly spaced.
    bands, window: see `Decoding`.
    """

    part: tuple[int, int] | None
    limit: int | None
    bands: Bands
    window: Window


class SampleOptions(MapOptions, total=False):
    """And how samples are prompted; see `PromptRule`."""

    prompts: Literal["clicks", "box", "clicks+box"]
    clicks: int
    seed: int


@dataclass(frozen=True)
class Options:
    """The values of `SampleOptions`."""

    prompts: Literal["clicks", "box", "clicks+box"] = "clicks"
    clicks: int = 3
    seed: int = 0
    part: tuple[int, int] | None = None
    limit: int | None = None
    bands: Bands = None
    window: Window = None

    @property
    def rule(self) -> PromptRule:
        return PromptRule(self.prompts, self.clicks, self.seed)

    @property
    def decoding(self) -> Decoding:
        return Decoding(self.bands, self.window)
