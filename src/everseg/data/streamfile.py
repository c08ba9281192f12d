"""Parse a stream file: YAML to checked values; every mistake is a sentence that names its place."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from everseg.data.classes.steps import EmptyMaps, UnseenAs
from everseg.data.domains.prompts import PromptKind
from everseg.data.maskrule import Threshold
from everseg.errors import UserError, unknown
from everseg.text import read_text, uncapitalised
from everseg.types import Setting

NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
"""What a stage's name may be: it becomes a file name."""
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?|.*\.", re.IGNORECASE)
"""Names that Windows keeps for devices, and names whose end it would drop."""

Name = Annotated[str, StringConstraints(pattern=f"^{NAME}$", max_length=100)]
SplitSpec = str | dict[str, Any]


LONGEST = 100
"""Of a stage's name: files named after it, and their temporary neighbours, must fit every system."""


def is_name(text: str) -> bool:
    """Whether a stage may have this name: files can be named after it on every system."""
    return len(text) <= LONGEST and bool(re.fullmatch(NAME, text)) and not _RESERVED.fullmatch(text)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Defaults(_Strict):
    """Options that a stage gives to both its splits, where their reader takes them."""

    mask_threshold: Threshold | None = None
    mask_values: list[int] | None = None
    mask_colours: list[str | list[int]] | None = None
    void: list[int] | None = None
    prompts: PromptKind | None = None
    clicks: int | None = None

    def given(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in _Defaults.model_fields if getattr(self, key) is not None}


class StageSpec(_Defaults):
    """A stage of a stream file.

    later_of: name of an earlier stage, if these are later images of its domain.
    """

    name: Name
    train: SplitSpec
    test: SplitSpec
    val: SplitSpec | None = None
    later_of: Name | None = None


class UnseenSpec(_Defaults):
    name: Name
    test: SplitSpec


class StreamSpec(_Strict):
    """A stream file as it was written, with variables expanded and nothing opened."""

    name: str = ""
    root: str = "."
    seed: int = 0
    mask_threshold: Threshold | None = None
    stages: list[StageSpec]
    background: StageSpec | None = None
    unseen: list[UnseenSpec] = []


class BatchSpec(_Defaults):
    """Images as they arrived, of whichever domains."""

    name: Name
    train: SplitSpec
    test: SplitSpec | None = None


class PileSpec(_Strict):
    """A stream file whose domains are discovered, as it was written.

    names: names of the domains, in place of `domain-1` and so on.
    later: what to do with later images of a known domain: let the method choose, leave them alone, or make
        them a stage.
    table: file with the domain of each image; by default beside the stream file.
    """

    name: str = ""
    root: str = "."
    seed: int = 0
    mask_threshold: Threshold | None = None
    domains: Literal["discover"]
    batches: list[BatchSpec]
    names: dict[str, Name] = {}
    later: Literal["choose", "leave", "beside"] = "choose"
    table: str = ""
    background: StageSpec | None = None
    unseen: list[UnseenSpec] = []


class ClassStageSpec(_Strict):
    """A stage of a stream file of classes.

    classes: names or numbers of its classes.
    train, test, val: the stage's own images; None: those of the stream.
    """

    name: Name
    classes: list[str | int]
    train: SplitSpec | None = None
    test: SplitSpec | None = None
    val: SplitSpec | None = None


class ClassStreamSpec(_Strict):
    """A stream file of classes as it was written. Of `steps` and `stages` one is given."""

    name: str = ""
    root: str = "."
    seed: int = 0
    classes: str | list[str] | dict[int, str] | None = None
    train: SplitSpec | None = None
    test: SplitSpec | None = None
    val: SplitSpec | None = None
    setting: Setting = "overlapped"
    unseen_as: UnseenAs = "background"
    empty_maps: EmptyMaps = "skip"
    steps: str | None = None
    order: list[str | int] | None = None
    stages: list[ClassStageSpec] = []


def of_classes(tree: dict[str, Any]) -> bool:
    """Whether a stream file is one of classes: it says something that only those say."""
    if set(tree) & (set(ClassStreamSpec.model_fields) - set(StreamSpec.model_fields)):
        return True
    stages = tree.get("stages")
    return isinstance(stages, list) and any(isinstance(s, dict) and "classes" in s for s in stages)


_Kind = type[StreamSpec] | type[PileSpec] | type[ClassStreamSpec]


def read_stream_file(path: Path) -> StreamSpec | PileSpec | ClassStreamSpec:
    """Parse and check a stream file.

    Raises:
        UserError: missing, not YAML, an unset environment variable, or a key or value that does not belong.
    """
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text; save it as UTF-8"
        todo = f"give the file, such as {path / 'stream.yaml'}" if path.is_dir() else "check the path"
        raise UserError(f"cannot read the stream file {path}: {reason}; {todo}") from error
    try:
        tree = yaml.load(text, _UniqueKeys)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # Also dates and numbers that are none.
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        reason = " ".join(str(getattr(error, "problem", error)).split())
        raise UserError(f"{path} is not valid YAML{place} ({reason}); correct it") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} is not a mapping; a stream file begins with name:, root: and stages:")
    kind: _Kind = PileSpec if "domains" in tree else ClassStreamSpec if of_classes(tree) else StreamSpec
    try:
        spec = kind.model_validate(_expand(tree, path))
    except ValidationError as error:
        raise _sentence(error, tree, path, kind) from error
    except RecursionError as error:
        raise UserError(f"{path} contains itself by an alias (*name); write it without") from error
    if isinstance(spec, PileSpec):
        if not spec.batches:
            raise UserError(f"{path}: batches: is empty; list at least one batch with name: and train:")
        names = [batch.name.lower() for batch in spec.batches]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(
                f"{path}: two batches are named {twice[0]!r}; names must differ, not only in case"
            )
    if isinstance(spec, ClassStreamSpec):
        _check(spec, path)
        return spec
    for key in ("val", "later_of"):
        if spec.background and getattr(spec.background, key) is not None:
            raise UserError(
                f"{path}: background: {key!r} has no effect, because the background has no module that is "
                f"trained; remove {key}:"
            )
    if isinstance(spec, StreamSpec):
        _check_later(spec, path)
    return spec


def _check_later(spec: StreamSpec, path: Path) -> None:
    """Later images are of a domain that is learned before them, not of other later images."""
    domains: list[str] = []
    later: dict[str, str] = {}
    for stage in spec.stages:
        if stage.later_of is None:
            domains.append(stage.name)
        elif stage.later_of not in domains:
            place, given = f"{path}: stage {stage.name!r}: later_of:", stage.later_of
            if given in later:
                first = later[given]
                raise UserError(f"{place} {given!r} itself has later_of: {first!r}; name {first!r} instead")
            known = f"name one of {', '.join(domains)}" if domains else "there is none, so remove later_of:"
            raise UserError(f"{place} {given!r} is not a domain that an earlier stage learns; {known}")
        else:
            later[stage.name] = stage.later_of


def _check(spec: ClassStreamSpec, path: Path) -> None:
    """What one key of a stream of classes asks of another."""
    if bool(spec.stages) == bool(spec.steps):
        raise UserError(
            f"{path}: give either steps:, such as 15-1, or a list of stages: with their classes, not "
            "both or neither"
        )
    if spec.order is not None and not spec.steps:
        raise UserError(
            f"{path}: order: works with steps: only; remove it, because stages list their own classes"
        )
    for split in ("train", "test"):
        lacking = [s.name for s in spec.stages if getattr(s, split) is None]
        if getattr(spec, split) is None and (lacking or not spec.stages):
            whose = f"stage {lacking[0]!r}" if lacking else "the stream"
            raise UserError(f"{path}: {whose} has no {split!r}; add {split}: ... to it or to the stream")


class _UniqueKeys(yaml.SafeLoader):
    """YAML's safe loader, except that a key given twice is an error instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value!r} is given twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _expand(value: Any, path: Path) -> Any:
    """Replace ${VARIABLE} and ${VARIABLE:-default} in every text of a tree."""
    if isinstance(value, dict):
        return {key: _expand(v, path) for key, v in value.items()}
    if isinstance(value, list):
        return [_expand(v, path) for v in value]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        if os.environ.get(name):
            return os.environ[name]
        if default is None:
            raise UserError(
                f"{path}: {match[0]} is not set; export {name}=... or write a default as ${{{name}:-folder}}"
            )
        return default

    return re.sub(r"\$\{(\w+)(?::-?([^}]*))?\}", variable, value)


_TAGS = re.compile(r"str|int|.*\[.*")
"""What pydantic adds to a place to say which member of a union it tried."""


def _sentence(
    error: ValidationError,
    tree: dict[str, Any],
    path: Path,
    kind: _Kind,
) -> UserError:
    """The first fault pydantic found, in our words; misspelt keys come before the missing ones."""
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    location = [p for p in first["loc"] if not (isinstance(p, str) and _TAGS.fullmatch(p))]
    if not location:
        return UserError(f"{path} has the key {first['input']!r}, which is not text; see docs/data.md")
    stage: type[_Strict] = ClassStageSpec if kind is ClassStreamSpec else StageSpec
    place, field = f"{path}", str(location[-1])
    model: type[_Strict] = kind
    match location:
        case ["stages" | "unseen" | "batches" as part, int(number), *_]:
            given = tree[part][number]
            name = given.get("name") if isinstance(given, dict) else None
            what = "batch" if part == "batches" else "stage"
            place += f": {what} {name!r}" if name else f": {part}[{number}]"
            model = stage if part == "stages" else BatchSpec if part == "batches" else UnseenSpec
            field = str(location[2]) if len(location) > 2 else ""
        case ["background", *rest]:
            place += ": background"
            model, field = StageSpec, str(rest[0]) if rest else ""
        case _:
            field = str(location[0])
    value = first["input"]
    if first["type"] == "extra_forbidden":
        return unknown(f"key in {place}:", field, model.model_fields)
    if first["type"] == "missing":
        return UserError(f"{place} has no {field!r}; add {field}: ...")
    if field == "name" or first["type"] == "string_pattern_mismatch":
        place += "" if field == "name" else f": {field}"
        return UserError(
            f"{place}: the name {value!r} cannot be a file name; "
            "use letters, digits, '.', '_' and '-' (numbers in quotes)"
        )
    if not field:
        keys = "name: and classes:" if model is ClassStageSpec else "name:, train: and test:"
        return UserError(f"{place} is {value!r}; it must be a mapping with {keys}")
    if field in ("train", "test", "val"):
        return UserError(
            f"{place}: {field!r} is {value!r}; give a folder, or a mapping with kind: and its options"
        )
    return UserError(f"{place}: {field!r} is {value!r}: {uncapitalised(first['msg'])}; see docs/data.md")
