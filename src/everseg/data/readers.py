"""Readers by name, and how the options of a stream file become their arguments.

The signature of a reader is the schema of its options: its keyword names are the keys, its annotations the
types. To add a reader, write a class or function that gives a sequence of samples and add one line to
`READERS`. What the sequence can tell of its samples is in `Described`.
"""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Unpack, get_args, get_origin, get_type_hints, runtime_checkable

from pydantic import TypeAdapter, ValidationError

from everseg.data.beside import Beside, module_beside
from everseg.data.described import described
from everseg.data.domains.coco import CocoReader
from everseg.data.domains.cvat import CvatReader
from everseg.data.domains.dicom import DicomReader
from everseg.data.domains.folder import FolderReader
from everseg.data.domains.geotiff import GeotiffReader
from everseg.data.domains.hf import HfReader
from everseg.data.domains.instances import InstancesReader
from everseg.data.domains.labelme import LabelmeReader
from everseg.data.domains.nifti import NiftiReader
from everseg.data.domains.voc import VocReader
from everseg.data.domains.yolo import YoloReader
from everseg.data.names import refuse_twice
from everseg.data.synthetic.domains import SyntheticDomain
from everseg.errors import UserError, unknown
from everseg.files import path_from
from everseg.text import uncapitalised

Reader = Callable[..., Sequence[Any]]


@runtime_checkable
class _Indexed(Protocol):
    """The least that a reader gives."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


READERS: dict[str, Reader] = {
    "folder": FolderReader,
    "coco": CocoReader,
    "voc": VocReader,
    "instances": InstancesReader,
    "labelme": LabelmeReader,
    "yolo": YoloReader,
    "cvat": CvatReader,
    "hf": HfReader,
    "geotiff": GeotiffReader,
    "dicom": DicomReader,
    "nifti": NiftiReader,
    "synthetic": SyntheticDomain,
}


def reader(kind: str, readers: Mapping[str, Reader] = READERS, beside: Path | None = None) -> Reader:
    """The reader of a name in `readers` or of an import path "package.module:callable".

    beside: a folder whose modules go before installed ones: that of the stream file.

    Raises:
        UserError: no such name, module or callable.
    """
    if ":" not in kind:
        if kind not in readers:
            raise unknown("kind", kind, readers)
        return readers[kind]
    module, _, name = kind.partition(":")
    own = None if beside is None else module_beside(module, beside)
    try:
        found = getattr(own or importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError, SyntaxError) as error:
        raise UserError(
            f"kind {kind!r} cannot be imported ({error}); write it as package.module:callable"
        ) from error
    if not callable(found):
        raise UserError(f"kind {kind!r} is not callable; it must be a class or function that gives samples")
    return found


def kind_and_options(given: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What a stream file says of a split, a folder or a mapping, as a reader's name and its options.

    Raises:
        UserError: a kind that is not text.
    """
    options: dict[str, Any] = {"path": given} if isinstance(given, str) else dict(given)
    kind = options.pop("kind", "folder")
    if not isinstance(kind, str):
        raise UserError(f"kind is {kind!r}; write a reader's name or package.module:callable")
    return kind, options


@dataclass(frozen=True)
class _Signature:
    """What a reader takes.

    hints: the types of the options that it names.
    required: those without a default.
    open: whether it takes any other, too (`**kwargs`).
    """

    hints: dict[str, Any]
    required: tuple[str, ...]
    open: bool

    @classmethod
    def of(cls, kind: str, call: Reader) -> _Signature:
        """Read a signature, with the options of `**options: Unpack[...]` among its own.

        Raises:
            UserError: it has none.
        """
        try:
            given = inspect.signature(call).parameters.values()
            typed = get_type_hints(call.__init__ if inspect.isclass(call) else call)
        except (TypeError, ValueError, NameError) as error:  # Of some that are not written in Python.
            raise UserError(
                f"kind {kind!r} is not a reader ({error}); it must be a class or function"
            ) from error
        hints: dict[str, Any] = {}
        required, is_open = [], False
        for p in given:
            if p.kind is p.VAR_KEYWORD:
                shared = typed.get(p.name)
                if get_origin(shared) is Unpack:
                    hints |= get_type_hints(get_args(shared)[0])
                else:
                    is_open = True
            elif p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
                hints[p.name] = typed.get(p.name)
                required += [p.name] * (p.default is p.empty)
        return cls(hints, tuple(required), is_open)


def parameters(kind: str, call: Reader) -> set[str] | None:
    """Names of the options a reader takes; None if it takes any (`**kwargs`)."""
    signature = _Signature.of(kind, call)
    return None if signature.open else set(signature.hints)


def open_samples(
    kind: str,
    options: Mapping[str, Any],
    defaults: Mapping[str, Any],
    root: Path,
    readers: Mapping[str, Reader] = READERS,
    beside: Path | None = None,
) -> Sequence[Any]:
    """Call the reader of `kind` with checked options; relative paths start at `root`.

    defaults: used for options that are not given, where the reader has an optional parameter of that name; so
        is `root`, as "stream_root".
    beside: as in `reader`.

    Raises:
        UserError: an unknown, missing or ill-typed option, or what the reader itself raises.
    """
    call = reader(kind, readers, beside)
    signature = _Signature.of(kind, call)
    for key in options:
        if not signature.open and key not in signature.hints:
            raise unknown(f"option of kind {kind!r}:", key, signature.hints)
    optional = set(signature.hints) - set(signature.required)
    defaults = {"stream_root": str(root.absolute()), **defaults}
    given = {**{k: v for k, v in defaults.items() if k in optional}, **options}
    missing = [name for name in signature.required if name not in given]
    if missing:
        raise UserError(f"kind {kind!r} needs the option {missing[0]!r}; write it as {missing[0]}: ...")
    checked = {key: _checked(key, value, signature.hints.get(key), root) for key, value in given.items()}
    samples: Sequence[Any] = call(**checked) if kind in readers else _called(kind, call, checked)
    if not isinstance(samples, _Indexed) or isinstance(samples, str | bytes | Mapping):
        raise UserError(
            f"kind {kind!r} gave a {type(samples).__name__}; a reader gives a sequence of samples"
        )
    if (names := described(samples).names()) is not None:
        refuse_twice(names, f"the split of kind {kind!r}")
    if beside is not None and ":" in kind and module_beside(kind.partition(":")[0], beside) is not None:
        return Beside(samples, kind.partition(":")[0], beside)
    return samples


def _called(kind: str, call: Reader, options: Mapping[str, Any]) -> Any:
    """What somebody's own reader gives, or a sentence that names the line where it failed."""
    try:
        return call(**options)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"kind {kind!r} failed with {type(error).__name__}: {error} ({place.filename}, line "
            f"{place.lineno}); correct its options or the reader"
        ) from error


def _checked(key: str, value: Any, hint: Any, root: Path) -> Any:
    if hint in (Path, str | Path, Path | None):
        if value is None and hint == Path | None:
            return None
        if not isinstance(value, str | Path):
            raise UserError(f"option {key!r} is {value!r}; it must be a path")
        return path_from(root, value, f"option {key!r}")
    if hint is None:
        return value
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        raise UserError(
            f"option {key!r} is {value!r}: {uncapitalised(error.errors()[0]['msg'])}; see docs/data.md"
        ) from error
