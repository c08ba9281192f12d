"""What one server takes on."""

from __future__ import annotations

from dataclasses import dataclass

from everseg.errors import UserError

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Sizes and counts beyond which a request is refused with a sentence.

    upload: bytes of one file.
    uploads: files that are kept.
    pixels: of one image.
    sessions: open pages.
    idle: seconds after which a page that asks nothing no longer counts.
    objects: of one image.
    clicks: of one object.
    waiting: jobs in the queue.
    body: bytes of a request that uploads nothing.
    """

    upload: int = 64 * MIB
    uploads: int = 2000
    pixels: int = 50_000_000
    sessions: int = 64
    idle: float = 1800.0
    objects: int = 64
    clicks: int = 200
    waiting: int = 256
    body: int = 32 * MIB

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise UserError(f"the limit {name!r} is {value}; give a number above 0")


def on_page(sentence: str) -> str:
    """What an error says on a page, which has buttons and no commands."""
    return sentence.replace("run the same command again", "try again")


class Refused(UserError):
    """A request that is not answered as asked. status: the HTTP status that says so."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
