"""Frozen dataclasses as configuration: dotted overrides from the command line, plain values for the run
folder."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral, Real
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from everseg.errors import UserError, unknown
from everseg.text import uncapitalised

C = TypeVar("C")

BEFORE = "before"


def before(value: Any) -> dict[str, Any]:
    """Metadata of a field that earlier versions did not have: what they did, for the runs that they wrote."""
    return {BEFORE: value}


MACHINE = {"machine": True}
"""Metadata of a field that concerns only this machine (worker processes, the path of a cache): it may differ
each time a run resumes, because nothing that is learned depends on it."""


LARGEST, LARGEST_WHOLE = 3e38, 2**63 - 1
"""Numbers that tensors can hold: floats of single precision, integers of 64 bits."""


EXAMPLES = {"--set": "--set tune.fit.epochs=5", "--score": "--score size=original"}
"""Options that change settings, each as it is used."""


class SettingError(UserError, ValueError):
    """A setting has a value that it cannot have. reason: that value, and what it may be."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} {reason}")
        self.name, self.reason = name, reason


@dataclass(frozen=True)
class Range:
    """The numbers that a field may have, declared in its type. `above`: `least` itself is not one of them."""

    least: float = -math.inf
    most: float = math.inf
    above: bool = False

    def check(self, name: str, value: Any, whole: bool) -> None:
        """Refuse what is not a number, infinite, NaN, out of the range or too large for a tensor.

        Raises:
            SettingError: it is.
        """
        number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
        inside = number and math.isfinite(value) and self.least <= value <= self.most
        if not inside or (self.above and value == self.least):
            raise SettingError(name, f"is {value!r}; it must be a {'whole ' * whole}number{self}")
        if abs(value) > (LARGEST_WHOLE if whole else LARGEST):
            raise SettingError(name, f"is {value!r}, which is too large; choose a lower number")

    def __str__(self) -> str:
        lower = "" if self.least == -math.inf else f" {'above' if self.above else 'from'} {self.least:g}"
        return lower + ("" if self.most == math.inf else f" to {self.most:g}")


Number = Annotated[float, Range()]
Amount = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
Share = Annotated[float, Range(0, 1)]
Count = Annotated[int, Range(0)]
Size = Annotated[int, Range(1)]


class Checked:
    """Base of frozen dataclasses whose numbers must lie in the ranges that their fields' types declare."""

    def __post_init__(self) -> None:
        for name, kind, allowed, words in _ranges(type(self)):  # type: ignore[arg-type]  # can be hashed
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                if number not in words:
                    allowed.check(name, number, kind is int)


def ascending(config: Any, *names: str) -> None:
    """Refuse pairs (low, high) whose low is above their high.

    Raises:
        SettingError: one is.
    """
    for name in names:
        low, high = getattr(config, name)
        if low > high:
            raise SettingError(name, f"is {plain((low, high))}; write the lower number first")


@lru_cache
def _ranges(config: type) -> list[tuple[str, type, Range, tuple[Any, ...]]]:
    """(field, int or float, range, words that stand for a number) of each field whose type declares a range,
    in a union or tuple too."""

    def declared(hint: Any, words: tuple[Any, ...] = ()) -> Iterator[tuple[type, Range, tuple[Any, ...]]]:
        for mark in getattr(hint, "__metadata__", ()):
            if isinstance(mark, Range):
                yield hint.__origin__, mark, words
        parts = get_args(hint)
        words = tuple(word for part in parts if get_origin(part) is Literal for word in get_args(part))
        for part in parts:
            yield from declared(part, words)

    hints = get_type_hints(config, include_extras=True)
    return [(f.name, *found) for f in dataclasses.fields(config) for found in declared(hints[f.name])]


def override(config: C, assignments: Iterable[str], option: str = "--set") -> C:
    """A copy of a (nested) frozen dataclass with `key.sub=value` assignments applied; values are YAML.

    option: what they were given with, for messages.

    Raises:
        UserError: a key that does not exist (the nearest is named) or a value of the wrong type.
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(
                f"{option} {assignment!r} has no '=': write it as key=value, as in {EXAMPLES[option]}"
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(
                f"{option} {assignment!r}: the value is not valid YAML; write a number, true, false, a list "
                "such as [1,2], or a text in quotes"
            ) from error
        where = f"{option} {assignment!r}"
        try:
            config = _assign(config, key.strip().split("."), value, text, where)
        except SettingError as error:
            if option == "--set":  # The method's name is added where it is known.
                raise
            raise UserError(f"{where}: {error}") from error
    return config


def assign(config: C, values: Mapping[str, Any]) -> C:
    """A copy of a (nested) frozen dataclass with values set by their dotted keys.

    Raises:
        UserError: a key that does not exist (the nearest is named) or a value of the wrong type.
    """
    for key, value in values.items():
        config = _assign(config, key.split("."), value, str(value), repr(f"{key}={value}"))
    return config


def _assign(config: C, path: list[str], value: Any, text: str, where: str, group: tuple[str, ...] = ()) -> C:
    assert dataclasses.is_dataclass(config) and not isinstance(config, type)
    names = [f.name for f in dataclasses.fields(config)]
    head, *rest = path
    if head not in names:
        raise unknown(f"setting in {where}:", head, names)
    current = getattr(config, head)
    if rest:
        if not dataclasses.is_dataclass(current):
            raise UserError(
                f"{where}: {head!r} is a single value without settings of its own; write {head}=VALUE"
            )
        new = _assign(current, rest, value, text, where, (*group, head))
    else:
        if dataclasses.is_dataclass(current):
            parts = ", ".join(f"{head}.{f.name}" for f in dataclasses.fields(current))
            raise UserError(f"{where}: {head!r} is a group; set one of {parts}")
        new = _checked(get_type_hints(type(config))[head], value, text, where)
    try:
        return dataclasses.replace(config, **{head: new})
    except SettingError as error:
        key = ".".join([*group, error.name])
        raise SettingError(key, error.reason) from error


SAID = {"bool": "give true or false", "int": "give a whole number", "float": "give a number"}
"""What to do, by the beginning of pydantic's name for what is wrong."""


def _checked(kind: Any, value: Any, text: str, where: str) -> Any:
    """The value as the field's type has it: as YAML reads it, or else as the text it is.

    To YAML "off" is False and "5" a number; a field of text means the text.
    """
    adapter = TypeAdapter(kind)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        try:
            return adapter.validate_python(text.strip())
        except ValidationError:
            raise UserError(f"{where}: {_wanted(kind, error)}") from error


def _wanted(kind: Any, error: ValidationError) -> str:
    """What a setting of a type takes, instead of what was given."""
    found = error.errors()
    if get_origin(kind) is tuple and any(e["type"] in ("tuple_type", "missing", "too_long") for e in found):
        places = get_args(kind)
        number = "" if Ellipsis in places else f"{len(places)} "
        return f"give {number}values in brackets, as in [{','.join('ABCDEF'[: max(2, len(places))])}]"
    # One of each kind: of a union each member says what is wrong, of a tuple each place.
    said = " or ".join(dict.fromkeys(map(_said, found)))
    return said.replace(" or give ", " or ") if said.startswith("give ") else said


def _said(one: Any) -> str:
    if one["type"] == "literal_error":
        return f"choose {one['ctx']['expected']}"
    return SAID.get(one["type"].partition("_")[0]) or uncapitalised(one["msg"])


def everywhere(config: C, name: str, value: Any) -> C:
    """A copy of a nested dataclass in which each field of this name, however deep, has this value."""
    assert dataclasses.is_dataclass(config) and not isinstance(config, type)
    new: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        inner = getattr(config, f.name)
        if f.name == name:
            new[name] = value
        elif dataclasses.is_dataclass(inner) and not isinstance(inner, type):
            new[f.name] = everywhere(inner, name, value)
    return dataclasses.replace(config, **new)


def plain(config: Any, machine: bool = True) -> Any:
    """The configuration as dicts, lists and scalars, in the order of its fields; with or without those that
    are this machine's business."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {
            f.name: plain(getattr(config, f.name), machine)
            for f in dataclasses.fields(config)
            if machine or not f.metadata.get("machine")
        }
    if isinstance(config, list | tuple):
        return [plain(v, machine) for v in config]
    return config


def restore(kind: type[C], values: dict[str, Any], where: str) -> C:
    """The configuration that `plain` wrote; a field that it lacks has the value of `before`.

    Raises:
        UserError: the values do not fit, for example because another version wrote them.
    """
    try:
        return TypeAdapter(kind).validate_python(_with_earlier(kind, values))
    except ValidationError as error:
        first = error.errors()[0]
        place, said = [str(p) for p in first["loc"] if str(p).isidentifier()], uncapitalised(first["msg"])
        if isinstance(cause := first.get("ctx", {}).get("error"), SettingError):
            place, said = [*place, cause.name], f"it {cause.reason}"
        name = ".".join(place) or "as a whole"
        raise UserError(
            f"{where}: setting {name!r} is damaged or of another version ({said}); restore it from a copy"
        ) from error


def _with_earlier(kind: Any, values: Any) -> Any:
    """The values, with those of fields that the version which wrote them did not have."""
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(values, Mapping)):
        return values
    hints = get_type_hints(kind)
    found = {name: _with_earlier(hints.get(name), value) for name, value in values.items()}
    earlier = {f.name: f.metadata[BEFORE] for f in dataclasses.fields(kind) if BEFORE in f.metadata}
    return {**earlier, **found}


def inherit(config: C, earlier: C, written: Mapping[str, Any]) -> C:
    """A copy of a nested configuration in which fields that `written` lacks are as in `earlier`.

    written: what an earlier version wrote.
    earlier: what was read from it, with the values of `before`.
    """
    assert dataclasses.is_dataclass(config) and not isinstance(config, type)
    new: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        ours, theirs = getattr(config, f.name), getattr(earlier, f.name, None)
        if BEFORE in f.metadata and f.name not in written:
            new[f.name] = theirs
        elif type(ours) is type(theirs) and dataclasses.is_dataclass(ours):
            new[f.name] = inherit(ours, theirs, written.get(f.name, {}))
    return dataclasses.replace(config, **new)


class Difference(NamedTuple):
    """A dotted name at which two plain configurations differ, and both values; None where one lacks it."""

    name: str
    ours: Any
    theirs: Any

    def __str__(self) -> str:
        return f"{self.name} is {self.ours!r} now and was {self.theirs!r}"


def differences(ours: Any, theirs: Any, prefix: str = "") -> list[Difference]:
    """Where two plain configurations differ, by name."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        out = []
        for key in sorted(set(ours) | set(theirs)):
            name = f"{prefix}.{key}" if prefix else str(key)
            out += differences(ours.get(key), theirs.get(key), name)
        return out
    return [] if ours == theirs else [Difference(prefix, ours, theirs)]


class Setting(NamedTuple):
    """One setting, or a group of settings, as `describe` finds it in a configuration.

    name: dotted, as `--set` takes it.
    kind: its type, or "group".
    value: as in the configuration; None for a group.
    meaning: from the field's docstring.
    source: where the default comes from; "" if unknown.
    """

    name: str
    kind: str
    value: Any
    meaning: str
    source: str


def describe(config: Any, prefix: str = "") -> list[Setting]:
    """Every setting of a (nested) configuration, in the order of its fields, each group before its parts.

    A field is documented by a string literal below it, which ends with the source of its default in square
    brackets: \"\"\"Passes over the training images. [SAMCL]\"\"\".
    """
    assert dataclasses.is_dataclass(config) and not isinstance(config, type)
    texts = _field_texts(type(config))
    hints = get_type_hints(type(config))
    found = []
    for f in dataclasses.fields(config):
        name, value = prefix + f.name, getattr(config, f.name)
        meaning, source = texts.get(f.name, ("", ""))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            found.append(Setting(name, "group", None, meaning, source))
            found += describe(value, name + ".")
        else:
            found.append(Setting(name, _kind_text(hints[f.name]), plain(value), meaning, source))
    return found


@lru_cache
def _field_texts(kind: type) -> dict[str, tuple[str, str]]:
    """(meaning, source) by field, of a dataclass and of those it inherits from."""
    found: dict[str, tuple[str, str]] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError):  # Defined where there is no file, for example at a prompt.
            continue
        (node,) = tree.body
        assert isinstance(node, ast.ClassDef)
        for statement, after in zip(node.body, node.body[1:], strict=False):
            match statement, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(value=str(text))):
                    parts = re.fullmatch(r"(.*?)(?: \[([^\[\]]*)\])?", " ".join(text.split()))
                    assert parts is not None
                    found[name] = parts[1], parts[2] or ""
    return found


def _kind_text(hint: Any) -> str:
    """A type for people: its name, or the values allowed."""
    if get_origin(hint) is Literal:
        return " | ".join(str(v) for v in get_args(hint))
    if isinstance(hint, type) and not get_args(hint):
        return "null" if hint is type(None) else hint.__name__
    parts = ["..." if a is ... else _kind_text(a) for a in get_args(hint)]
    if get_origin(hint) is tuple:
        return f"[{', '.join(parts)}]"
    if isinstance(get_origin(hint), type) and issubclass(get_origin(hint), Mapping):
        return f"{{{': '.join(parts)}}}"
    return " | ".join(parts) or str(hint)
