"""Frozen dataclasses as configuration: dotted overrides from the command line, plain values for the run
folder."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from everseg.errors import UserError, unknown

C = TypeVar("C")

MACHINE = {"machine": True}
"""Metadata of a field that says how this machine goes about it (worker processes, where a cache lies): it may
differ each time a run goes on, because nothing that is learned depends on it."""


def at_least(config: Any, least: float, *names: str) -> None:
    """Refuse values of numeric fields below `least`, infinite or NaN.

    Raises:
        UserError: one is.
    """
    for name in names:
        value = getattr(config, name)
        if not least <= value < math.inf:
            raise UserError(f"{name} is {value}; it must be a number from {least:g}")


def override(config: C, assignments: Iterable[str]) -> C:
    """A copy of a (nested) frozen dataclass with `key.sub=value` assignments applied; values are YAML.

    Raises:
        UserError: a key that does not exist (the nearest is named) or a value of the wrong type.
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(
                f"--set {assignment!r} has no '=': write it as key=value, as in --set tune.fit.epochs=5"
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"--set {assignment!r}: the value is not valid YAML") from error
        config = _assign(config, key.strip().split("."), value, assignment)
    return config


def assign(config: C, values: Mapping[str, Any]) -> C:
    """A copy of a (nested) frozen dataclass with values set by their dotted keys.

    Raises:
        UserError: a key that does not exist (the nearest is named) or a value of the wrong type.
    """
    for key, value in values.items():
        config = _assign(config, key.split("."), value, f"{key}={value}")
    return config


def _assign(config: C, path: list[str], value: Any, assignment: str) -> C:
    assert dataclasses.is_dataclass(config) and not isinstance(config, type)
    names = [f.name for f in dataclasses.fields(config)]
    head, *rest = path
    if head not in names:
        raise unknown(f"setting in --set {assignment!r}:", head, names)
    current = getattr(config, head)
    if rest:
        if not dataclasses.is_dataclass(current):
            raise UserError(f"--set {assignment!r}: {head!r} is a single value, it has no parts")
        new = _assign(current, rest, value, assignment)
    else:
        if dataclasses.is_dataclass(current):
            parts = ", ".join(f"{head}.{f.name}" for f in dataclasses.fields(current))
            raise UserError(f"--set {assignment!r}: {head!r} is a group; set one of {parts}")
        new = _checked(get_type_hints(type(config))[head], value, assignment)
    return dataclasses.replace(config, **{head: new})


def _checked(kind: Any, value: Any, assignment: str) -> Any:
    """The value as the field's type has it: as YAML reads it, or else as the text it is.

    To YAML "off" is False and "5" a number; a field of text means the text.
    """
    adapter = TypeAdapter(kind)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        try:
            return adapter.validate_python(assignment.partition("=")[2].strip())
        except ValidationError:
            raise UserError(f"--set {assignment!r}: {error.errors()[0]['msg'].lower()}") from error


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
    """The configuration that `plain` wrote.

    Raises:
        UserError: the values do not fit, for example because another version wrote them.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"])
        raise UserError(f"{where}: setting {place!r}: {first['msg'].lower()}") from error


def differences(ours: Any, theirs: Any, prefix: str = "") -> list[str]:
    """Human-readable differences of two plain configurations: "tune.epochs is 5 here and 20 there"."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        out = []
        for key in sorted(set(ours) | set(theirs)):
            name = f"{prefix}.{key}" if prefix else str(key)
            out += differences(ours.get(key), theirs.get(key), name)
        return out
    return [] if ours == theirs else [f"{prefix} is {ours!r} now and was {theirs!r}"]
