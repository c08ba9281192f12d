"""The few types that everything else speaks in.

Shapes: N objects of one image, P points of one object, H and W the pixels of the *original* image.
Coordinates are (x, y) = (column, row) in those pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from everseg.errors import UserError
from everseg.types.brief import Brief
from everseg.types.keys import FROM_PIXELS, Keyed

if TYPE_CHECKING:  # Reading names and types does not load torch.
    import torch
    from torch import Tensor

Precision = Literal["auto", "fp32", "bf16", "fp16"]
"""What a base computes in; its weights stay float32. "auto": bf16 where the accelerator has it, else fp32."""

Evaluate = Literal["next", "all"]
"""Which domains are scored after each stage, beside those learned: the next one, or all that come."""

Defaults = Literal["data", "preset"]
"""Where settings of a run of classes come from if they are not given: its data, or the preset."""

Undecided = Literal["aside", "accept"]
"""What becomes of a stage of which the gate cannot tell: it is kept aside, or accepted."""

Weighting = Literal["equal", "images", "objects"]
"""What a domain counts in a merge."""

PLAIN = "plain"
"""In place of a stage's name: the untouched base."""

OUTSIDE = "outside"
"""In place of a stage's name: an image unlike all learned domains, for which the untouched base is used."""

NATURAL = "natural images"
"""In place of a stage's name: an image like those that the base was trained on, for which it is used as it
is."""

MERGED = "merged"
"""In place of a stage's name: the one adapter of a method that merges its domains."""

RESERVED = (PLAIN, OUTSIDE, NATURAL)
"""Names that no stage can have."""

ExportForm = Literal["sam", "peft", "onnx", "torch"]
"""What a run is exported as: a plain SAM, an adapter for peft, or ONNX graphs; of classes an ONNX graph or a
plain module of torch."""

Going = Literal["known", "tuned", "new"]
"""What later images of a known domain are segmented with: its module as it is, a copy of it that was tuned
on, or a new module."""

Setting = Literal["overlapped", "disjoint", "sequential"]
"""Which images and labels a step of a class stream has."""

VOID = 255
"""The label of pixels in masks and class maps that count neither as background nor as any class."""


@dataclass(frozen=True, repr=False)
class Prompts(Brief):
    """What the user points at, one entry for each of N objects. At least one of `points` and `boxes` is
    given.

    points: (N, P, 2) float32 x, y in pixels of the original image, or None.
    labels: (N, P) int64, 1 on the object, 0 off it, -10 padding where objects have fewer points; None without
    points.
    boxes: (N, 4) float32 x0, y0, x1, y1, or None.
    """

    points: Tensor | None = None
    labels: Tensor | None = None
    boxes: Tensor | None = None

    def __post_init__(self) -> None:
        assert self.points is not None or self.boxes is not None, "a prompt needs points or boxes"
        assert (self.points is None) == (self.labels is None), "points and labels come together"

    def __len__(self) -> int:
        given = self.points if self.points is not None else self.boxes
        assert given is not None
        return len(given)


@dataclass(frozen=True, repr=False)
class Query(Brief, Keyed):
    """What a learner may see when it predicts: an image and its prompts, never the stage or the truth.

    image: (3, H, W) uint8.
    key: identifies the image's content and its decoding, for the feature cache. Without one it is a hash of
        the pixels (about 2 ms per megapixel); with "" the features are not kept.
    lasting: whether the image belongs to a data set that comes back; of others the last few are cached.
    """

    image: Tensor
    prompts: Prompts
    key: str = field(default=FROM_PIXELS, repr=False)
    lasting: bool = True


@dataclass(frozen=True, repr=False)
class PromptSample(Brief, Keyed):
    """One training or test example of a promptable model.

    image: (3, H, W) uint8.
    masks: (N, H, W) bool, the truth for each prompt.
    name: for messages and reports.
    key: as in `Query`.
    """

    image: Tensor
    prompts: Prompts
    masks: Tensor
    name: str = ""
    key: str = field(default=FROM_PIXELS, repr=False)

    @classmethod
    def from_mask(
        cls,
        image: Any,
        mask: Any,
        *,
        clicks: int = 3,
        box: bool = False,
        seed: int = 0,
        numbered: bool = False,
        name: str = "",
    ) -> PromptSample:
        """A sample from pixels in memory, prompted by clicks and boxes drawn on its masks.

        image: (H, W, 3) or (H, W) uint8, a tensor (3, H, W), or a PIL image.
        mask: (H, W), or (N, H, W) for N objects: bool, 0 and 1, or 0 and 255.
        clicks: per object, drawn on it uniformly with replacement; 0: none.
        box: also give the tight box of each object.
        seed, name: the clicks are a function of both and of the mask.
        numbered: the values of `mask` (H, W) number the objects; 0 is the background.

        Raises:
            UserError: an image or a mask of another kind, masks without an object, or nothing to prompt with.
        """
        if clicks < 0 or not (clicks or box):
            raise UserError(f"clicks is {clicks}; give a number from 1, or 0 with box=True")
        import torch

        from everseg.types.pixels import draw_clicks, image_tensor, mask_tensor, tight_box

        pixels = image_tensor(image, f"image {name}" if name else "the image")
        size = (int(pixels.shape[1]), int(pixels.shape[2]))
        masks = mask_tensor(mask, f"mask {name}" if name else "the mask", size, numbered=numbered)
        each = [(f"{name}#{n}" if len(masks) > 1 else name, m.numpy()) for n, m in enumerate(masks, 1)]
        points = [torch.from_numpy(draw_clicks(m, clicks, seed, of)) for of, m in each if clicks]
        boxes = [torch.from_numpy(tight_box(m)) for _, m in each if box]
        prompts = Prompts(
            torch.stack(points) if points else None,
            torch.ones(len(masks), clicks, dtype=torch.int64) if points else None,
            torch.stack(boxes) if boxes else None,
        )
        return cls(pixels, prompts, masks, name)

    def query(self) -> Query:
        return Query(self.image, self.prompts, self.key)

    def tensors(self) -> dict[str, Tensor]:
        """All that the sample is, by name: for fingerprints."""
        given = {
            "points": self.prompts.points,
            "labels": self.prompts.labels,
            "boxes": self.prompts.boxes,
        }
        present = {name: tensor for name, tensor in given.items() if tensor is not None}
        return {"image": self.image, "masks": self.masks, **present}


@dataclass(frozen=True, repr=False)
class ImageQuery(Brief):
    """What a learner of classes may see when it predicts: an image, never the stage or the truth.

    image: (3, H, W) uint8.
    key: as in `Query`.
    """

    image: Tensor
    key: str = ""


@dataclass(frozen=True, repr=False)
class SemanticSample(Brief, Keyed):
    """One training or test example of a model that gives every pixel a class.

    image: (3, H, W) uint8.
    labels: (H, W) uint8: 0 background, 255 ignore; in a stage of a stream of classes 1, 2, ... are the
        classes in the order in which the stages bring them, and in a reader what its files say.
    name: for messages and reports.
    key: as in `Query`.
    """

    image: Tensor
    labels: Tensor
    name: str = ""
    key: str = field(default=FROM_PIXELS, repr=False)

    def query(self) -> ImageQuery:
        return ImageQuery(self.image, self.key)

    def tensors(self) -> dict[str, Tensor]:
        """All that the sample is, by name: for fingerprints."""
        return {"image": self.image, "labels": self.labels}


@dataclass(frozen=True)
class Route:
    """Which module a learner chose for a query and how sure it was (0..1).

    name: of the module, or `MERGED`; `OUTSIDE` or `NATURAL` for the untouched base.
    probability: of the module; for `MERGED` the largest p-value, for `OUTSIDE` one minus it.
    probabilities: of every module that it could have chosen, by name; empty where the method does not say.
    p_values: of every domain, by name: the share of its own images that are less like it than this one is.
        Empty where the method does not say.
    """

    name: str
    probability: float
    probabilities: Mapping[str, float] = field(default_factory=dict)
    p_values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class PromptPrediction(Brief):
    """Masks for one query, kept at the decoder's resolution until somebody asks for pixels.

    logits: (N, h, w) float32.
    iou: (N,) float32, the model's own estimate.
    size: (H, W) of the original image.
    route: the module that was used, for methods that choose one.
    """

    logits: Tensor
    iou: Tensor
    size: tuple[int, int]
    route: Route | None = None

    def masks(self, size: tuple[int, int] | None = None, mode: str = "bilinear") -> Tensor:
        """(N, H, W) bool at `size` (default: the original image): probability at least 0.5 after resizing
        logits."""
        from torch.nn import functional as F

        kwargs = {} if mode == "nearest" else {"align_corners": False}
        big = F.interpolate(self.logits[None].float(), size=size or self.size, mode=mode, **kwargs)
        return big[0] >= 0


@dataclass(frozen=True, repr=False)
class Stage(Brief):
    """One step of a stream: a domain (domain-incremental) or a set of new classes (class-incremental).

    train and test are lazy sequences of samples: `stage.train[i]` decodes one. The core never looks inside
    them.
    val: samples by which the best epoch is chosen; empty where it is the last.
    classes: names of the classes the stage brings; empty for domains. In the labels of train and test the
        first class of the first stage is 1, and counting continues through the stages.
    background: the stage holds natural images on which the untouched base is the right answer (SAMCL's "COCO"
    class):
        a method may learn to recognise it but should train no module for it. Its test images are not averaged
        into AA.
    later_of: the domain, learned before, of which these are later images: a method with modules may choose
        how to continue with its module (`abilities.ChoosesLater`). Empty for a stage of its own.
    """

    index: int
    name: str
    train: Sequence[Any]
    test: Sequence[Any]
    classes: tuple[str, ...] = ()
    background: bool = False
    val: Sequence[Any] = ()
    later_of: str = ""


State = dict[str, Any]
"""A nested dict of tensors and plain JSON values: what `state_dict` returns and files keep."""

REPLAYED = ("memory", "pool", "features")
"""Keys of a state under which a method keeps examples for replay. Only there may a state hold pixels and
depend on the number of images; a setting of the method bounds it."""


class Scratch(Protocol):
    """Where unfinished work of one stage is kept, so that an interrupted run resumes where it was."""

    def load(self, name: str) -> State | None:
        """What was saved under `name` in this stage, or None."""

    def save(self, name: str, state: State) -> None:
        """Replace what is kept under `name`, atomically."""


class NoScratch:
    """Keeps nothing: for learning outside a run."""

    def load(self, name: str) -> State | None:
        return None

    def save(self, name: str, state: State) -> None:
        return None


@runtime_checkable
class BaseModel(Protocol):
    """A base model, whatever its kind.

    fingerprint: sha256 of every weight.
    """

    name: str
    fingerprint: str
    precision: Precision

    @property
    def device(self) -> torch.device: ...


@runtime_checkable
class Learner(Protocol):
    """A continual-learning method. Four methods, nothing optional.

    `predict` never sees the stage or the truth: a method is task-agnostic because of its signature.
    `state_dict` holds all that the method must remember between stages, so that memory is measured, not
    claimed. Its top-level keys name the kinds of things stored ("modules", "selector", "buffer", ...).
    """

    def learn(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        """Learn one stage; earlier stages' data are gone. Returns figures for the log (losses, seconds,
        ...)."""

    def predict(self, queries: Sequence[Any]) -> list[Any]:
        """One prediction for each query, in order."""

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


class RunView(Protocol):
    """What the object that stands for a problem may see of a run: enough to score it."""

    learner: Learner
    base: Any
    config: Any
    results: Any
    record: Any

    @property
    def learned(self) -> list[str]: ...

    @property
    def classes(self) -> tuple[str, ...]: ...
