"""Facts about a sequence of samples that are known without decoding it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from everseg.data.classes.legend import Legend
from everseg.data.domains.prompts import PromptRule, StoredClicks
from everseg.data.names import refuse_twice
from everseg.files import sha256_tensors
from everseg.types import PromptSample, SemanticSample


class Sample(Protocol):
    """What every sample can tell: `PromptSample` and `SemanticSample` do."""

    @property
    def name(self) -> str: ...

    def tensors(self) -> dict[str, Tensor]: ...


T_co = TypeVar("T_co", bound=Sample, covariant=True)

METHODS = (
    "fingerprint",
    "names",
    "content",
    "file",
    "image_name",
    "truth_file",
    "presence",
    "stored_clicks",
    "masks",
    "doubts",
)
"""What `described` takes from a reader that does not derive from `Described`, beside `legend` and `rule`."""


class Described(Sequence[T_co]):
    """Samples that tell what is known of them. What a reader does not override is found by decoding.

    legend: what the numbers in class maps are; None where there are none or the reader does not know.
    rule: how the samples are prompted; None where the prompts come with the samples.
    notes: what a person should know of how the files were read, as sentences such as those of errors.
    names_itself: whether `legend` is what the files say, so that a stream file cannot name the numbers.
    as_shown: whether masks are of the images as they are shown, so that an EXIF turn is that of both.
    """

    legend: Legend | None = None
    rule: PromptRule | None = None
    notes: tuple[str, ...] = ()
    names_itself: bool = False
    as_shown: bool = False

    def fingerprint(self) -> str:
        """Hex digest of what all samples are, which does not depend on where files lie.

        Raises:
            UserError: two samples have one name.
        """
        digest = hashlib.sha256()
        names = []
        for index in range(len(self)):
            name, tensors = _hashed(self[index])
            names.append(name)
            digest.update(f"{name}|{tensors}\n".encode(errors="surrogateescape"))
        if self.names() is None:  # Otherwise they were compared when the stream was opened.
            refuse_twice(names, "a split")
        return digest.hexdigest()

    def names(self) -> Sequence[str] | None:
        """The names of all samples, if they are known without decoding any."""
        return None

    def content(self, index: int) -> list[Any]:
        """What one sample is, for fingerprints: plain values such as names and hashes."""
        return _hashed(self[index])

    def file(self, index: int) -> str:
        """Image file of one sample, or a stand-in: two samples with the same one have the same image."""
        return f"sample {index}"

    def truth_file(self, index: int) -> str:
        """File of the masks or labels of one sample, for messages, or the name of the sample."""
        return self[index].name or self.file(index)

    def image_name(self, index: int) -> str:
        """Name of the image of one sample, wherever its file lies; the objects of one image share it."""
        return re.sub(r"#\d+$", "", self[index].name) or self.file(index)

    def presence(self) -> NDArray[np.bool_]:
        """Which labels occur in each sample: (N, 256)."""
        present = np.zeros((len(self), 256), bool)
        for index in range(len(self)):
            sample: Any = self[index]
            present[index, np.unique(sample.labels.numpy())] = True
        return present

    def masks(self) -> str:
        """What the values in the files of masks mean, in words; "" where there are none."""
        return ""

    def doubts(self) -> Sequence[str]:
        """What seems wrong with the samples as a whole, as sentences."""
        return ()

    def stored_clicks(self, index: int) -> StoredClicks | None:
        """The clicks of one sample that a file lists, if it is prompted with those."""
        return None


def described(samples: Sequence[Any]) -> Described[Any]:
    """The samples as they describe themselves: the only place that asks what a sequence can tell."""
    return samples if isinstance(samples, Described) else Plain(samples)


class Plain(Described[Any]):
    """Any other sequence, such as a list, with whichever of the methods it has."""

    def __init__(self, samples: Sequence[Any]) -> None:
        self.samples = samples
        for name in METHODS:
            own = getattr(samples, name, None)
            if callable(own):
                setattr(self, name, own)
        legend, rule = (getattr(samples, name, None) for name in ("legend", "rule"))
        self.legend = legend if isinstance(legend, Legend) else None
        self.rule = rule if isinstance(rule, PromptRule) else None
        self.names_itself = getattr(samples, "names_itself", False) is True
        self.as_shown = getattr(samples, "as_shown", False) is True
        notes = getattr(samples, "notes", ())
        self.notes = tuple(map(str, notes)) if isinstance(notes, list | tuple) else ()

    def __len__(self) -> int:
        return len(self.samples)

    def names(self) -> Sequence[str] | None:
        if not isinstance(self.samples, list | tuple):
            return None
        return [s.name for s in self.samples if isinstance(s, PromptSample | SemanticSample)]

    def __getitem__(self, index: Any) -> Any:
        return self.samples[index]

    def __iter__(self) -> Iterator[Any]:
        """By the length: not every sequence raises IndexError at its end."""
        return (self[index] for index in range(len(self)))


def _hashed(sample: Sample) -> list[str]:
    return [sample.name, sha256_tensors(sample.tensors())]
