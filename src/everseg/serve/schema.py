"""What requests say, checked before anything is done."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints

from everseg.runs.prompts import Asked

Coordinate = Annotated[FiniteFloat, Field(ge=0, le=1_000_000)]
ImageId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
SessionId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Text = Annotated[str, StringConstraints(max_length=120, pattern=r"^[^\x00-\x1f]*$")]


class Strict(BaseModel):
    """A body with no other keys than these."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Click(Strict):
    """A click in pixels of the image, from its upper left corner.

    on: 1 on the object, 0 off it.
    """

    x: Coordinate
    y: Coordinate
    on: Literal[0, 1] = 1


class PromptedObject(Strict):
    """One object.

    box: x0, y0, x1, y1.
    """

    clicks: Annotated[list[Click], Field(max_length=10_000)] = []
    box: tuple[Coordinate, Coordinate, Coordinate, Coordinate] | None = None

    def asked(self) -> Asked:
        """As `everseg predict` has it."""
        points = tuple((click.x, click.y) for click in self.clicks)
        return Asked(points, tuple(int(click.on) for click in self.clicks), self.box)


class SegmentRequest(Strict):
    """What is asked of an image.

    stage: a module's name, "plain", or null to let the method choose.
    live: ask the page's live session, whatever the stage.
    """

    session: SessionId
    objects: Annotated[list[PromptedObject], Field(max_length=10_000)] = []
    stage: Text | None = None
    live: bool = False


class FilesRequest(Strict):
    """Files as `everseg predict` writes them.

    stage: as in a request for masks.
    """

    session: SessionId
    objects: Annotated[list[PromptedObject], Field(max_length=10_000)] = []
    stage: Text | None = None
    form: Literal["masks", "labels", "coco"] = "masks"


RunLengths = Annotated[list[Annotated[int, Field(ge=0, le=2**40)]], Field(max_length=4_000_000)]


class AcceptedObject(PromptedObject):
    """An object with the mask that was accepted, as run lengths in column order, zeros first."""

    mask: RunLengths


class CorrectedObject(PromptedObject):
    """An object that the answer was wrong about.

    mask: as run lengths where it is accepted, else null, and the last click is what corrects.
    """

    mask: RunLengths | None = None


class CorrectRequest(Strict):
    """What the page's live session learns from."""

    session: SessionId
    objects: Annotated[list[CorrectedObject], Field(min_length=1, max_length=10_000)]


class AcceptRequest(Strict):
    """An image whose masks are right."""

    image: ImageId
    domain: Text
    objects: Annotated[list[AcceptedObject], Field(max_length=10_000)]


class LearnRequest(Strict):
    """A domain to learn.

    later_of: the domain of the run that its images are of, whose module the method may use or tune on; null
        for a domain of its own.
    """

    domain: Text
    later_of: Text | None = None


class DecideRequest(Strict):
    """anyway: accept although the gate found something worse."""

    anyway: bool = False


class PaintRequest(Strict):
    """Images to try the page with."""

    domain: Text
    count: Annotated[int, Field(ge=1, le=48)] = 12
