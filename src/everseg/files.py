"""Files that are whole or absent: atomic writes, content hashes, nested state as safetensors with JSON."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from everseg.errors import UserError, brief
from everseg.text import is_file_name, read_text

LOCK = ".lock"
"""The file by which a process holds a folder."""


def _neighbour(path: Path) -> Path:
    """A hidden name beside a path that nothing has. Long names are cut, so that it is no longer than they.

    Raises:
        UserError: no file can have the path's own name.
    """
    if not (path.name and is_file_name(str(path))):
        said = f"cannot write {brief(str(path), 300)}: no file can have this name; choose another"
        raise UserError(said) from OSError(errno.ENAMETOOLONG, "File name too long")
    return path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}.partial")


def _why(error: Exception, folder: Path, advice: str) -> str:
    """Why nothing can be written in a folder, and what to do.

    advice: where no file is in the way.
    """
    if isinstance(error, FileExistsError | NotADirectoryError):
        in_the_way = next((path for path in (folder, *folder.parents) if path.is_file()), None)
        if in_the_way is not None:
            return f"{in_the_way} is a file; choose a folder"
    return f"{getattr(error, 'strerror', None) or error}; {advice}"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary neighbour of `path` that takes its place when the block ends well and vanishes when not.

    The content is flushed to the disk before the rename, so that a power cut leaves the old file or the new
    one. The umask decides who may read it, as for any other file.

    Raises:
        UserError: the path is a folder or no name, its folder cannot be written, or the disk is full.
    """
    temporary = _neighbour(path)
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        advice = "check the folder's permissions and space"
        raise UserError(f"cannot write {path}: {_why(error, path.parent, advice)}") from error
    try:
        yield temporary
        with temporary.open("r+b") as file:  # Windows flushes only what may be written.
            os.fsync(file.fileno())
        os.chmod(temporary, mode & 0o777)  # safetensors replaces the file that it fills
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        advice = "free some space and run the same command again"
        raise UserError(f"cannot write {path}: {reason}; {advice}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary neighbour of the folder `path` that takes its place when the block ends well and vanishes
    when not. What was in the folder is gone then, and stays until then.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    temporary = _neighbour(path)
    old = temporary.with_suffix(".old")
    try:
        temporary.mkdir(parents=True)
        held = _held(temporary)
    except OSError as error:
        advice = "check the folder's permissions and space"
        raise UserError(f"cannot write {path}: {_why(error, path.parent, advice)}") from error
    try:
        yield temporary
        mode = temporary.stat().st_mode & 0o666
        for file in temporary.iterdir():
            with file.open("r+b") as written:
                os.fsync(written.fileno())
            file.chmod(mode)  # safetensors' files are its owner's alone
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        advice = "free some space and run the same command again"
        raise UserError(f"cannot write {path}: {reason}; {advice}") from error
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        for rest in (temporary, old):
            shutil.rmtree(rest, ignore_errors=True)
        if held is not None:
            os.close(held)


def remove_unfinished(path: Path) -> None:
    """Remove what processes that were killed in `atomic_folder` have left beside `path`."""
    for rest in path.parent.glob(f".{glob.escape(path.name[:50])}.{'[0-9a-f]' * 8}.partial"):
        held = _held(rest) if rest.is_dir() else None
        if held is not None:
            shutil.rmtree(rest, ignore_errors=True)
            os.close(held)


def _held(folder: Path) -> int | None:
    """Lock a folder until the descriptor is closed or the process ends; None where another process has it,
    or the system has no such locks."""
    try:
        import fcntl
    except ImportError:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def path_from(root: Path, given: str | Path, what: str) -> Path:
    """The path that a person wrote, which starts at `root` if it is relative; "~" is the home folder.

    what: names it in the message, such as "option 'path'".

    Raises:
        UserError: no system has such a path: it is too long, holds a NUL character, or is of an unknown user.
    """
    try:
        path = root / Path(given).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{what} is {brief(str(given))!r}, but there is no such user; write the whole path"
        ) from error
    if not is_file_name(str(path)):
        raise UserError(
            f"{what} is {brief(str(given))!r}, which cannot be a file name: it is too long or holds a "
            "NUL character; correct it"
        )
    return path


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write a UTF-8 text file atomically. Bytes of file names that are not UTF-8 are escaped."""
    write_bytes(path, content.encode(errors="printable"))


def json_text(value: Any) -> str:
    """JSON with sorted keys and an indent, in ASCII: the same value always gives the same text."""
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: the same value always gives the same bytes."""
    write_text(path, json_text(value))


def read_json(path: Path, *, names: bool = False, unique: bool = False) -> Any:
    """Read JSON.

    names: as in `read_text`.
    unique: refuse an object that has a key twice, of which JSON readers silently take the last.

    Raises:
        UserError: the file is missing, unreadable or not JSON.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        tree = dict(pairs)
        if len(tree) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in tree if keys.count(key) > 1)
            raise UserError(f"{path} has the key {twice!r} twice; remove one")
        return tree

    try:
        return json.loads(read_text(path, names=names), object_pairs_hook=once if unique else None)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error
    except (ValueError, RecursionError) as error:  # Also numbers of thousands of digits.
        raise UserError(f"{path} is not valid JSON ({error}); restore it from a copy or delete it") from error


def sha256_file(path: Path) -> str:
    """Hex digest of a file's content, read in pieces.

    Raises:
        OSError: it cannot be read, or is a pipe or device, for whose content one would wait forever.
    """
    if not path.is_dir() and not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "no regular file", str(path))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_tensors(tensors: dict[str, Tensor]) -> str:
    """Hex digest of named tensors: names, types, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return digest.hexdigest()


def split_state(state: Any, prefix: str, tensors: dict[str, Tensor]) -> Any:
    """The tree of a nested state in which references stand for tensors; those are put into `tensors` under
    their paths."""
    if isinstance(state, Tensor):
        tensors[prefix] = state.detach().cpu().contiguous()
        return {"$tensor": prefix}
    if isinstance(state, dict):
        for key in state:
            usable = isinstance(key, str) and key not in ("", "$tensor") and "/" not in key
            assert usable, f"state keys are strings, not empty, without '/': {key!r}"
        return {k: split_state(v, f"{prefix}/{k}" if prefix else k, tensors) for k, v in state.items()}
    if isinstance(state, list | tuple):
        return [split_state(value, f"{prefix}/{i}", tensors) for i, value in enumerate(state)]
    plain = state is None or isinstance(state, bool | int | float | str)
    assert plain, f"cannot keep a {type(state).__name__}"
    return state


def join_state(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The nested state that `split_state` took apart."""
    if isinstance(tree, dict):
        if set(tree) == {"$tensor"}:
            return tensors[tree["$tensor"]]
        return {key: join_state(value, tensors) for key, value in tree.items()}
    if isinstance(tree, list):
        return [join_state(value, tensors) for value in tree]
    return tree


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a nested state of tensors and JSON values to one safetensors file, atomically and reproducibly.

    The tree of plain values travels in the file's metadata, so that one rename replaces all of it. Keys keep
    their order, because a learner may well go through them; tuples come back as lists.
    """
    tensors: dict[str, Tensor] = {}
    tree = split_state(state, "", tensors)
    # Two names of one storage are an error to safetensors; a copy is what the reader expects.
    seen: set[int] = set()
    for name, value in tensors.items():
        pointer = value.untyped_storage().data_ptr()
        if pointer in seen:
            tensors[name] = value.clone()
        seen.add(pointer)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"everseg": json.dumps(tree)})


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        UserError: the file is missing, truncated or not one of ours.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; restore it from a copy")
    try:
        # Read, not mapped: Windows deletes no file that is mapped into memory, and a run replaces its state.
        # By us, because safetensors opens no path that is not UTF-8.
        content = path.read_bytes()
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return join_state(json.loads(header["__metadata__"]["everseg"]), tensors)
    except (SafetensorError, KeyError, json.JSONDecodeError, OSError) as error:
        raise UserError(
            f"{path} is truncated or was not written by everseg ({error}); restore it from a copy"
        ) from error


def state_bytes(state: Any) -> int:
    """Bytes of all tensors in a nested state."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(state_bytes(value) for value in state.values())
    if isinstance(state, list | tuple):
        return sum(state_bytes(value) for value in state)
    return 0


@contextmanager
def locked(folder: Path, instead: str = "") -> Iterator[None]:
    """Hold `folder` for one writing process; the lock ends with the process, however it ends.

    Folders that were made for it are gone again if nothing was written to them.

    instead: what the caller can do besides waiting, for the error; nothing where only this folder will do.

    Raises:
        UserError: another process holds it, or it is a run on a hub.
    """
    if str(folder).startswith("hf:"):
        raise UserError(
            f"{folder} is on a hub and cannot be changed there; download it with 'hf download "
            "OWNER/NAME --local-dir DIR' and give that folder"
        )
    # A run may be stepped through by several threads, one after the other: the lock is the process's.
    lock = FileLock(folder / LOCK, thread_local=False)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout as error:
            advice = f"wait for it or {instead}" if instead else "wait for it to end"
            raise UserError(f"another command is writing to {folder}; {advice}") from error
        except (OSError, NotImplementedError) as error:
            why = _why(error, folder, instead or "free space or allow writing there")
            raise UserError(f"cannot write to {folder}: {why}") from error
        try:
            yield
        finally:
            with suppress(OSError):
                if made and [path.name for path in folder.iterdir()] == [LOCK]:
                    (folder / LOCK).unlink()
            lock.release()
    finally:
        with suppress(OSError):
            for path in made:
                path.rmdir()
