"""Import readers from files next to the stream file."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pickle
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from everseg.data.described import Plain
from everseg.errors import UserError, first_line


def module_beside(name: str, folder: Path) -> ModuleType | None:
    """The module `name` (dotted) of a file or package in `folder`; None where there is no such file.

    What it imports at its top may lie in `folder`, too: `sys.path` has the folder while the module is
    imported, and not afterwards. Modules of one name beside two stream files are kept apart.

    Raises:
        UserError: its code raises an error.
    """
    folder = folder.resolve()
    first, *rest = name.split(".")
    place = folder / first
    files = (folder / f"{first}.py", place / "__init__.py")
    file = next((f for f in files if f.is_file()), None)
    if file is None and not (rest and place.is_dir()):
        return None
    top = f"everseg_beside_{hashlib.sha256(str(place).encode()).hexdigest()[:16]}"
    sys.path.insert(0, str(folder))
    try:
        if top not in sys.modules:
            _load(top, file, place)
        return importlib.import_module(".".join([top, *rest]))
    except Exception as error:
        where = file if file is not None and not rest else f"{name} in {folder}"
        raise UserError(
            f"{where} cannot be imported ({type(error).__name__}: {first_line(error)}); correct it"
        ) from error
    finally:
        with suppress(ValueError):  # The reader's own code may have taken it out.
            sys.path.remove(str(folder))


def _load(name: str, file: Path | None, place: Path) -> None:
    """Import a file as the module `name`; without a file, a folder of modules."""
    importlib.invalidate_caches()  # The file may be younger than the last look at its folder.
    if file is None:
        package = sys.modules[name] = ModuleType(name)
        package.__path__ = [str(place)]
        return
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


class Beside(Plain):
    """The samples of a reader beside a stream file. A worker process that is sent them imports the reader's
    file first: it may not be able to import it by its name.
    """

    def __init__(self, samples: Any, name: str, folder: Path) -> None:
        super().__init__(samples)
        self.name, self.folder = name, folder

    def __repr__(self) -> str:
        return repr(self.samples)

    def __getitem__(self, index: Any) -> Any:
        found = self.samples[index]
        return Beside(found, self.name, self.folder) if isinstance(index, slice) else found

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (pickle.dumps(self.samples), self.name, self.folder)


def _restored(samples: bytes, name: str, folder: Path) -> Beside:
    module_beside(name, folder)
    return Beside(pickle.loads(samples), name, folder)
