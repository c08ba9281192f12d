"""Files are whole or absent, whatever happens to the process that writes them."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from everseg.errors import UserError
from everseg.files import (
    atomic_folder,
    atomic_path,
    load_state,
    locked,
    read_json,
    remove_unfinished,
    save_state,
    sha256_file,
    sha256_tensors,
    state_bytes,
    write_bytes,
    write_json,
    write_text,
)

TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


def same(ours: Any, theirs: Any) -> bool:
    """Equal in structure, order of keys, types, shapes and bits."""
    if isinstance(ours, torch.Tensor):
        if not isinstance(theirs, torch.Tensor) or ours.dtype != theirs.dtype or ours.shape != theirs.shape:
            return False
        return ours.contiguous().reshape(-1).view(torch.uint8).equal(theirs.reshape(-1).view(torch.uint8))
    if isinstance(ours, dict):
        return list(ours) == list(theirs) and all(same(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, list | tuple):
        pairs = zip(ours, theirs, strict=True)
        return isinstance(theirs, list) and len(ours) == len(theirs) and all(same(a, b) for a, b in pairs)
    return type(ours) is type(theirs) and ours == theirs


def only(folder: Path, *names: str) -> bool:
    """Whether a folder holds these files and no leftovers."""
    return sorted(p.name for p in folder.iterdir()) == sorted(names)


def spawn(program: str, *args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# ---------------------------------------------------------------- atomic writes


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.txt"
    write_text(path, "Grüße\n")
    assert path.read_bytes() == "Grüße\n".encode()
    assert only(path.parent, "x.txt")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, UserError])
def test_an_exception_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")
    with pytest.raises(error), atomic_path(path) as temporary:
        temporary.write_bytes(b"new")
        raise error("stop")
    assert path.read_bytes() == b"old"
    assert only(tmp_path, "x.bin")


def test_a_folder_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    for name in ("old", "new"):
        with atomic_folder(folder) as temporary:
            (temporary / name).write_text(name)
            (temporary / name).chmod(0o600)
            assert not (folder / "new").exists()
        assert only(folder, name)
        assert only(folder.parent, "b")
        assert (folder / name).stat().st_mode & 0o777 == folder.stat().st_mode & 0o666


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, UserError])
def test_an_exception_leaves_the_old_folder_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    folder = tmp_path / "a"
    with atomic_folder(folder) as temporary:
        (temporary / "old").touch()
    with pytest.raises(error), atomic_folder(folder) as temporary:
        (temporary / "new").touch()
        raise error("stop")
    assert only(folder, "old")
    assert only(tmp_path, "a")


def test_a_folder_that_cannot_take_its_place_brings_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rename = tmp_path / "a", Path.rename
    with atomic_folder(folder) as temporary:
        (temporary / "old").touch()

    def fail(path: Path, target: Path) -> Path:
        if path.suffix == ".partial":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(UserError, match=r"cannot write .*Input/output error"), atomic_folder(folder):
        pass
    assert only(folder, "old")
    assert only(tmp_path, "a")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "a[1]"
    killed, other = tmp_path / ".a[1].01234567.partial", tmp_path / ".b.01234567.partial"
    for left in (killed, other):
        left.mkdir()
        (left / "half").touch()
    with atomic_folder(folder) as temporary:
        (temporary / "whole").touch()
        remove_unfinished(folder)
        assert temporary.is_dir() and not killed.exists() and other.is_dir()
    assert only(folder, "whole")


def test_a_folder_below_a_file_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with (
        pytest.raises(UserError, match=r"cannot write .*a/b: .*a is a file; choose a folder"),
        atomic_folder(tmp_path / "a" / "b"),
    ):
        pass


KILLED = """
import sys, time
from pathlib import Path
from everseg.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary, temporary.open("wb") as file:
    file.write(b"new" * 100_000)
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")
    with spawn(KILLED, path) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "writing\n"
        child.kill()
    assert child.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    write_bytes(path, b"newer")
    assert path.read_bytes() == b"newer"


SWAPPED = """
import sys
from pathlib import Path
from everseg.files import write_bytes
n = 0
while True:
    n += 1
    write_bytes(Path(sys.argv[1]), bytes([n % 256]) * 200_000)
    if n == 1:
        print("writing", flush=True)
"""


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    with spawn(SWAPPED, path) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "writing\n"
        seen = set()
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            content = path.read_bytes()
            assert len(content) == 200_000 and len(set(content)) == 1
            seen.add(content[0])
        child.kill()
    assert len(seen) > 1


@pytest.fixture
def small_disk() -> Iterator[int]:
    """No file of this process may grow past this many bytes: a full disk, but for the error's name."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield 100_000
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path: Path, small_disk: int) -> None:
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")
    with pytest.raises(
        UserError, match=r"cannot write .*x\.bin: [A-Z][a-z ]+; free some space and run the same"
    ):
        write_bytes(path, bytes(2 * small_disk))
    assert path.read_bytes() == b"old"
    assert only(tmp_path, "x.bin")


def test_a_full_disk_leaves_the_old_state(tmp_path: Path, small_disk: int) -> None:
    path = tmp_path / "x.safetensors"
    save_state(path, {"a": torch.ones(3)})
    with pytest.raises(UserError, match="free some space"):
        save_state(path, {"a": torch.zeros(small_disk)})
    assert same(load_state(path), {"a": torch.ones(3)})
    assert only(tmp_path, "x.safetensors")


def test_a_folder_that_cannot_be_made_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for below in ("file/x.txt", "file/a/x.txt"):
        with pytest.raises(UserError, match=r"cannot write .*x\.txt: .*file is a file; choose a folder"):
            write_text(tmp_path / below, "x")
    for out in ("file", "file/run"):
        with pytest.raises(UserError, match=r"cannot write to .*: .*file is a file; choose a folder"):
            with locked(tmp_path / out):
                pass


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_the_umask_decides_who_may_read(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "x.txt", "x")
        save_state(tmp_path / "x.safetensors", {"a": torch.ones(3)})
    finally:
        os.umask(before)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


# ---------------------------------------------------------------- JSON and hashes


def test_the_same_value_gives_the_same_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, None], "a": 0.1})
    write_json(tmp_path / "b.json", {"a": 0.1, "b": [1, None]})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert read_json(tmp_path / "a.json") == {"a": 0.1, "b": [1, None]}


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe"])
def test_what_is_not_json_is_the_users_to_mend(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.json is not valid JSON"):
        read_json(tmp_path / "x.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*x\.json: No such file"):
        read_json(tmp_path / "x.json")
    with pytest.raises(UserError, match=r"x\.safetensors does not exist; restore it from a copy"):
        load_state(tmp_path / "x.safetensors")


def test_a_files_hash_is_sha256(tmp_path: Path) -> None:
    content = os.urandom(300_000)
    write_bytes(tmp_path / "x", content)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(content).hexdigest()


def test_a_hash_of_tensors_sees_names_types_shapes_and_values() -> None:
    x = torch.arange(6, dtype=torch.float32)
    alike = sha256_tensors({"a": x, "b": x.bool()})
    assert alike == sha256_tensors({"b": x.bool(), "a": torch.stack([x, x], 1)[:, 0]})
    others = [
        {"c": x, "b": x.bool()},
        {"a": x.double(), "b": x.bool()},
        {"a": x.view(2, 3), "b": x.bool()},
        {"a": x + 1, "b": x.bool()},
        {"a": x, "b": x.to(torch.uint8)},
        {"a": x},
    ]
    assert len({alike, *map(sha256_tensors, others)}) == 1 + len(others)


@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_has_a_hash(dtype: torch.dtype) -> None:
    shapes = [torch.zeros(0, 3), torch.tensor(0.0), torch.zeros(3)]
    assert len({sha256_tensors({"a": x.to(dtype)}) for x in shapes}) == 3


# ---------------------------------------------------------------- state


def everything() -> dict[str, Any]:
    """Every type and shape, views of one storage, plain values, an order that is not the alphabet's."""
    base = torch.arange(24, dtype=torch.float32).view(4, 6)
    return {
        "z first": {str(dtype): torch.tensor([0, 1, 2]).to(dtype) for dtype in TYPES},
        "empty": [torch.zeros(0), torch.zeros(2, 0, 3, dtype=torch.bfloat16), {}, []],
        "scalar": torch.tensor(3.5),
        "bool": torch.tensor([[True], [False]]),
        "shared": [base, base, base[1:3], base[0], base.T, base[:, ::2], base[:1].expand(3, 6)],
        "values": {"none": None, "yes": True, "one": 1, "half": 0.1, "text": "Grüße/\n", "deep": [[1, [2]]]},
        "nan": torch.tensor([float("nan"), float("inf"), -0.0]),
        "grad": torch.ones(2, requires_grad=True).detach(),
        "a last": torch.tensor(7),
    }


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    save_state(tmp_path / "x.safetensors", everything())
    assert same(everything(), load_state(tmp_path / "x.safetensors"))


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    save_state(tmp_path / "a", everything())
    save_state(tmp_path / "b", everything())
    save_state(tmp_path / "c", load_state(tmp_path / "a"))
    assert sha256_file(tmp_path / "a") == sha256_file(tmp_path / "b") == sha256_file(tmp_path / "c")


def test_saving_leaves_the_state_alone(tmp_path: Path) -> None:
    weight = torch.ones(3, requires_grad=True)
    state = {"a": weight, "b": weight}
    save_state(tmp_path / "x", state)
    assert state["a"] is weight and state["b"] is weight and weight.requires_grad
    assert not load_state(tmp_path / "x")["a"].requires_grad


def test_state_read_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    save_state(path, {"a": torch.ones(1000)})
    read = load_state(path)
    save_state(path, {"a": torch.zeros(1000)})
    assert read["a"].eq(1).all()
    path.unlink()
    read["a"] += 1
    assert read["a"].eq(2).all()


tensors = st.builds(
    lambda shape, dtype: torch.arange(int(torch.tensor(shape).prod())).reshape(shape).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(TYPES),
)
leaves = (
    tensors
    | st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text()
)
names = st.text(min_size=1, max_size=5).filter(lambda s: "/" not in s and s != "$tensor")
trees = st.recursive(
    leaves, lambda t: st.lists(t, max_size=3) | st.dictionaries(names, t, max_size=3), max_leaves=8
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(names, trees, max_size=3))
def test_any_state_comes_back(tmp_path: Path, state: dict[str, Any]) -> None:
    save_state(tmp_path / "x", state)
    assert same(state, load_state(tmp_path / "x"))


@pytest.mark.parametrize(
    "state", [{"": 1}, {"a/b": 1}, {"$tensor": "a"}, {1: 2}, {"a": object()}, {"a": b"x"}]
)
def test_what_cannot_come_back_is_refused(tmp_path: Path, state: dict[Any, Any]) -> None:
    with pytest.raises(AssertionError):
        save_state(tmp_path / "x", state)
    assert only(tmp_path)


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_the_users_to_mend(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "x.safetensors"
    save_state(path, everything())
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(UserError, match=r"x\.safetensors is truncated or was not written by everseg"):
        load_state(path)


def foreign(path: Path, kind: str) -> None:
    if kind == "text":
        path.write_text("a picture of a cat, " * 50)
    elif kind == "no metadata":
        save_file({"a": torch.ones(3)}, path)
    elif kind == "not JSON":
        save_file({"a": torch.ones(3)}, path, metadata={"everseg": "{"})
    else:
        save_file({"a": torch.ones(3)}, path, metadata={"everseg": json.dumps({"b": {"$tensor": "b"}})})


@pytest.mark.parametrize("kind", ["text", "no metadata", "not JSON", "missing tensor"])
def test_somebody_elses_file_is_the_users_to_mend(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.safetensors"
    foreign(path, kind)
    with pytest.raises(UserError, match=r"x\.safetensors is truncated or was not written by everseg"):
        load_state(path)


def test_bytes_of_a_state_are_those_of_its_tensors() -> None:
    state = {
        "a": [torch.zeros(2, 3), torch.zeros(5, dtype=torch.bool)],
        "b": ({"c": torch.zeros(0)}, 3, "text"),
    }
    assert state_bytes(state) == 29
    assert state_bytes({"half": torch.zeros(7, dtype=torch.bfloat16)}) == 14


# ---------------------------------------------------------------- the lock

HOLDS = """
import sys, time
from pathlib import Path
from everseg.files import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_told_to_wait_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with spawn(HOLDS, folder) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=r"another command is writing to .*run; wait for it to end$"):
            with locked(folder):
                raise AssertionError("two hold the lock")
        with pytest.raises(UserError, match=r"wait for it or give another folder$"):
            with locked(folder, "give another folder"):
                raise AssertionError("two hold the lock")
        child.kill()
    with locked(folder):
        pass


def test_the_lock_is_let_go_however_the_block_ends(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError, match="stop"), locked(tmp_path):
            raise RuntimeError("stop")
    with locked(tmp_path), pytest.raises(UserError), locked(tmp_path):
        pass


@pytest.mark.parametrize(
    ("there", "written", "left"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_a_folder_made_for_the_lock_is_gone_after_an_error(
    there: bool, written: bool, left: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / "mine"
    if there:
        folder.mkdir(parents=True)
    with pytest.raises(UserError, match="refused"), locked(folder):
        if written:
            write_text(folder / "run.json", "{}")
        raise UserError("refused")
    assert folder.exists() is left and folder.parent.exists() is left


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127])
def test_the_longest_names_are_written(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(UserError, match="no file can have this name"):
        write_text(tmp_path / f"{name}xx", "whole")


def test_a_folder_is_no_file_to_write(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it is a folder; name a file"):
        write_text(tmp_path, "whole")
    with pytest.raises(UserError, match="no file can have this name"):
        write_text(Path(), "whole")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(OSError, match="no regular file"):
        sha256_file(tmp_path / "x.png")
