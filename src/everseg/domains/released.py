"""SAMCL's published modules, and those of anybody who ran its published code, read as data.

    DIR/Kvasir.pth ...          one AugModule a domain: a pickled dict of nn.Modules
    DIR/Module_Selector.pth     a state dict, whose classes are known by position alone

A pickle can run code when it is read. These are read through an allow-list: tensors, and a class without a
single method that stands in for each of the module classes. Whatever else a file names is refused unread.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everseg.data.streamfile import is_name
from everseg.domains.adapters.aug import RELEASED, AugConfig, AugModule
from everseg.domains.adapters.aug import from_released as module_weights
from everseg.domains.selector import ModuleSelector
from everseg.domains.selector import from_released as selector_weights
from everseg.errors import UserError
from everseg.models.promptable.protocol import Promptable

SELECTOR = "Module_Selector.pth"
ORDER = ("Kvasir", "camo", "ISTD", "ISIC", "cod", "COCO")
"""The published selectors' classes, which are the published run's domains in the order they were learned."""
BACKGROUND = "COCO"
"""The class that stands for the untouched base. It has no module."""
PUBLISHED = {
    "1579b95425ae48bc6d3748531f2184bd1b8bccf38b8d80b69e962ae664760c95": "SAM ViT-B",
    "8fb65051d3aee8e62f0e73571e7dde7f020a92ce802775755ceeaabfcf47081c": "SAM 2.1 Hiera-tiny",
}
"""sha256 of the published selectors: of these, and of no others, the order of the classes is known."""


class _Part:
    """Stands in for every class of a module file. It has a `__dict__` and nothing that could run."""


PARTS = (
    (_Part, "module.SAMCL.Extra"),
    (_Part, "module.SAMCL_2.Extra"),
    (_Part, "torch.nn.modules.linear.Linear"),
    (_Part, "torch.nn.modules.normalization.LayerNorm"),
    set,  # nn.Module keeps an empty one
)


@dataclass(frozen=True)
class Shape:
    """What modules and bases must agree in. width D, the adapted blocks, channels C of the image embedding
    (0 without a neck to adapt)."""

    width: int
    blocks: tuple[int, ...]
    channels: int

    @classmethod
    def of_base(cls, base: Promptable) -> Shape:
        return cls(base.width, tuple(base.adapted), base.channels if base.has_neck else 0)

    @property
    def facts(self) -> str:
        neck = f"a neck of {self.channels} channels" if self.channels else "no neck to adapt"
        return f"width {self.width}, blocks {', '.join(map(str, self.blocks))}, {neck}"

    def __str__(self) -> str:
        known = {(768, (7, 8, 9, 10, 11), 256): "SAM ViT-B", (384, (6, 7, 8, 9), 0): "SAM 2.1 Hiera-tiny"}
        name = known.get((self.width, self.blocks, self.channels))
        return f"{name} ({self.facts})" if name else self.facts


@dataclass(frozen=True)
class ReleasedModule:
    """One module file.

    file: name of the file.
    sha256: hash of its content.
    weights: tensors under the names of `AugModule`.
    """

    file: str
    sha256: str
    shape: Shape
    rank: int
    weights: Mapping[str, Tensor]

    def module(self) -> AugModule:
        """The module, set to compute as it was trained."""
        made = _fresh(self.shape, self.rank)
        made.load_state_dict(dict(self.weights))
        return made


@dataclass(frozen=True)
class ReleasedSelector:
    """A selector file.

    classes: number of classes.
    weights: tensors under the names of `ModuleSelector`, with all classes seen.
    """

    file: str
    sha256: str
    width: int
    classes: int
    weights: Mapping[str, Tensor]

    def first(self, count: int) -> dict[str, Tensor]:
        """The weights for its first `count` classes. Softmax over these alone is that over all with the
        others ruled out."""
        cut = ("layer4.weight", "layer4.bias", "seen")
        return {name: w[:count].clone() if name in cut else w for name, w in self.weights.items()}


@dataclass(frozen=True)
class Released:
    """A folder of modules of one shape, and their selector.

    names: classes of the selector, in its order.
    """

    names: tuple[str, ...]
    modules: Mapping[str, ReleasedModule]
    selector: ReleasedSelector

    @property
    def shape(self) -> Shape:
        return next(iter(self.modules.values())).shape

    @property
    def background(self) -> tuple[str, ...]:
        """The class without a module, if there is one."""
        return tuple(name for name in self.names if name not in self.modules)


def read_module(path: Path) -> ReleasedModule:
    """An AugModule file; nothing in it is run.

    Raises:
        UserError: it is missing, truncated, holds something else, or a tensor of the wrong shape, NaN or
            infinite.
    """
    content, digest = _load(path, PARTS)
    try:
        numbers = content["lora_layer"]
        blocks = tuple(n for n in numbers if type(n) is int and n >= 0)
        if not blocks or list(blocks) != sorted(set(numbers)):
            raise ValueError(f"lora_layer is {numbers!r}")
        parts = {name: part for name, part in content.items() if name != "lora_layer"}
        weights = module_weights({n: t for name, part in parts.items() for n, t in _tensors(part, name)})
        rank, width = weights["down.weight"].shape
        channels = len(weights["neck_out.bias"]) if "neck_out.bias" in weights else 0
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, UserError) as error:
        lacks = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path} is not a SAMCL module: {lacks}; fetch it again") from error
    shape = Shape(width, blocks, channels)
    _check(path, weights, _fresh(shape, rank).state_dict())
    return ReleasedModule(path.name, digest, shape, rank, _plain(weights))


def read_selector(path: Path) -> ReleasedSelector:
    """A Module Selector file, which has as many classes as its run had domains.

    Raises:
        UserError: as `read_module`.
    """
    content, digest = _load(path, ())
    try:
        weights = selector_weights(content)
        width, classes = weights["layer1.bias"].numel(), weights["layer4.bias"].numel()
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a SAMCL selector ({error}); fetch it again") from error
    _check(path, weights, ModuleSelector(width, [str(c) for c in range(classes)]).state_dict())
    return ReleasedSelector(path.name, digest, width, classes, _plain(weights))


def read_folder(folder: Path, order: Sequence[str] = (), background: str = BACKGROUND) -> Released:
    """The modules of a folder, with the selector that chooses among them.

    A domain's name is its file's.

    order: the selector's classes in the order they were learned; not needed for a published selector, which
        is known by its content. Classes beyond it were never trained and are left out.
    background: the one of them that has no file.

    Raises:
        UserError: no such files, an order that they do not bear out, modules of different bases, or what
            `read_module` and `read_selector` raise.
    """
    files = _files(folder)
    chooser = read_selector(folder / SELECTOR)
    names = _order(chooser, tuple(order), folder)
    if len(names) > chooser.classes:
        raise UserError(
            f"{folder / SELECTOR} has {chooser.classes} classes, but --order names {len(names)} "
            f"({', '.join(names)}); name all of them in their order"
        )
    bare = [name for name in names if name not in files and name != background]
    if bare:
        raise UserError(
            f"{folder} has no {bare[0]}.pth for the selector's class {bare[0]!r}; put it there, or name the "
            "class that stands for the untouched base with --background"
        )
    if odd := sorted(set(files) - set(names)):
        raise UserError(
            f"{files[odd[0]]} belongs to none of the selector's classes {', '.join(names)}; give the "
            "right --order, or move the file elsewhere"
        )
    modules = {name: read_module(files[name]) for name in names if name in files}
    found = Released(names, modules, chooser)
    for module in modules.values():
        if module.shape != found.shape:
            first = next(iter(modules.values()))
            raise UserError(
                f"{folder} mixes modules: {first.file} was made for {first.shape}, {module.file} for "
                f"{module.shape}; give a folder of one kind"
            )
    if chooser.width != found.shape.width:
        raise UserError(
            f"{folder / SELECTOR} reads features of width {chooser.width}, but the modules were made for "
            f"{found.shape}; give the selector that was trained with them"
        )
    return found


def check_fits(found: Released, base: Promptable, config: AugConfig) -> None:
    """Refuse a base that the modules were not made for, as far as shapes tell.

    Raises:
        UserError: width, adapted blocks, neck or rank differ.
    """
    if found.shape != Shape.of_base(base):
        raise UserError(
            f"these modules were made for {found.shape}; the base {base.name!r} has "
            f"{Shape.of_base(base).facts}; give --base the one they were made for"
        )
    for module in found.modules.values():
        if module.rank != config.rank:
            raise UserError(
                f"{module.file} has rank {module.rank}, not {config.rank}; add --set aug.rank={module.rank}"
            )
    if not config.prompt_map or not config.neck:
        raise UserError("the modules have a prompt map; leave aug.prompt_map and aug.neck at true")


def _files(folder: Path) -> dict[str, Path]:
    """The module files by domain, where there is a selector too."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the one that holds the modules and {SELECTOR}")
    found = {path.stem: path for path in sorted(folder.glob("*.pth")) if path.name != SELECTOR}
    if not found:
        below = [path.name for path in sorted(folder.iterdir()) if path.is_dir() and any(path.glob("*.pth"))]
        hint = f"its folders {', '.join(below)} do: give one of them" if below else "give the one that does"
        raise UserError(f"{folder} holds no modules (*.pth); {hint}")
    if not (folder / SELECTOR).is_file():
        raise UserError(
            f"{folder} has no {SELECTOR}, and without it no image finds its module; put it beside the modules"
        )
    return found


def _order(chooser: ReleasedSelector, order: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    if not order and chooser.sha256 not in PUBLISHED:
        raise UserError(
            f"{folder / SELECTOR} is not a published one, so the order of its {chooser.classes} classes is "
            f"not known; name them as they were learned, as in --order {','.join(ORDER)}"
        )
    if order and order != ORDER and chooser.sha256 in PUBLISHED:
        raise UserError(
            f"{folder / SELECTOR} was published with the order {','.join(ORDER)}; leave --order out"
        )
    for name in order:
        if not is_name(name):
            raise UserError(f"--order: {name!r} cannot be a domain; use letters, digits, '.', '_' and '-'")
    if len({name.lower() for name in order}) < len(order):
        raise UserError(f"--order {','.join(order)} names a domain twice; names differ, not only in case")
    return order or ORDER


def _load(path: Path, allowed: Sequence[Any]) -> tuple[dict[str, Any], str]:
    """The dict in a file of torch.save and the file's sha256."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    try:
        with torch.serialization.safe_globals(list(allowed)):
            tree = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        if foreign is None:
            raise UserError(f"{path} is not a file of torch.save; fetch it again") from error
        raise UserError(
            f"{path} holds {foreign[1]}, which is not part of a SAMCL module; nothing in it was run, and it "
            "is not read: get it from those who published it"
        ) from error
    except Exception as error:  # A damaged file can make the reader stumble anywhere.
        raise UserError(f"{path} is truncated or not a file of torch.save; fetch it again") from error
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise UserError(f"{path} holds no dict of names, as SAMCL's files do; fetch it again")
    return tree, hashlib.sha256(content).hexdigest()


def _tensors(part: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """The parameters of a pickled nn.Module and of those in it, read off its attributes."""
    if type(part) is not _Part:
        raise TypeError(f"{name!r} is a {type(part).__name__}")
    for own, value in vars(part)["_parameters"].items():
        yield f"{name}.{own}", value
    for own, child in vars(part)["_modules"].items():
        yield from _tensors(child, f"{name}.{own}")


def _check(path: Path, weights: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> None:
    """The weights have the names, kinds and shapes of `wanted`, and finite values."""
    if odd := sorted(set(weights) ^ set(wanted)):
        what = "has no" if odd[0] in wanted else "has an unknown"
        raise UserError(f"{path} {what} tensor {odd[0]!r}; fetch it again")
    for name, like in wanted.items():
        value = weights[name]
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            raise UserError(f"{path}: {name} is not a plain tensor; fetch it again")
        if value.shape != like.shape or value.is_floating_point() != like.is_floating_point():
            is_, not_ = (f"{t.dtype} {tuple(t.shape)}" for t in (value, like))
            raise UserError(f"{path}: {name} is {is_}, not {not_}; fetch it again")
        if not value.isfinite().all():
            raise UserError(f"{path}: {name} holds NaN or infinity; fetch it again or train it again")


def _plain(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies in single precision that hang on no file and no graph."""
    return {
        name: (value.detach().float() if value.is_floating_point() else value).contiguous().clone()
        for name, value in weights.items()
    }


def _fresh(shape: Shape, rank: int) -> AugModule:
    config = replace(RELEASED, rank=rank, neck=shape.channels > 0)
    return AugModule(shape.width, shape.channels, shape.blocks, config)
