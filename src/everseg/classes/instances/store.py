"""The pool as a folder that a person can open: pictures, masks, and a manifest that says what they are."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from everseg.classes.instances.pool import Instance, InstancePool
from everseg.errors import UserError
from everseg.files import read_json, write_bytes, write_json

MANIFEST = "manifest.json"
FORMAT = 1
KINDS = ("picture", "mask")
FIELDS = {*KINDS, "image", "classes", "box", "size", "step", "sha256"}


def save_pool(pool: InstancePool, folder: Path) -> None:
    """Write the pool: `NAME.jpg` or `.png`, `NAME.mask.png`, and `manifest.json`.

    The manifest is replaced last, and what only the old one named is deleted after that: an interrupted save
    leaves the old pool or the new one.

    Raises:
        UserError: the folder cannot be written, or holds a manifest of something else.
    """
    old = _files(_manifest(folder)) if (folder / MANIFEST).exists() else set()
    records: dict[str, Any] = {}
    for name, item in pool.items.items():
        picture = name + (".png" if item.picture.startswith(b"\x89PNG") else ".jpg")
        files = {"picture": picture, "mask": f"{name}.mask.png"}
        for file, content in ((files["picture"], item.picture), (files["mask"], item.mask)):
            if not (folder / file).is_file() or (folder / file).read_bytes() != content:
                write_bytes(folder / file, content)
        records[name] = item.record() | files
    manifest = {"format": FORMAT, "count": pool.count, "max_bytes": pool.max_bytes, "instances": records}
    write_json(folder / MANIFEST, manifest)
    for file in old - _files(manifest):
        (folder / file).unlink(missing_ok=True)


def load_pool(folder: Path) -> InstancePool:
    """Read what `save_pool` wrote.

    Raises:
        UserError: there is no manifest, or a picture is missing or not the one that was saved.
    """
    manifest = _manifest(folder)
    pool = InstancePool(manifest["count"], manifest["max_bytes"])
    for name, record in manifest["instances"].items():
        content = []
        for kind in KINDS:
            path = folder / record[kind]
            if not path.is_file():
                raise UserError(
                    f"{path} is missing; restore it from a copy, or remove {name} from {folder / MANIFEST}"
                )
            content.append(path.read_bytes())
        if hashlib.sha256(b"".join(content)).hexdigest() != record["sha256"]:
            raise UserError(
                f"{folder / record['picture']} or its mask was changed after it was saved; restore both "
                f"from a copy, or remove {name} from {folder / MANIFEST}"
            )
        pool.items[name] = Instance.restore(record, *content)
    return pool


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest, if everything that is read of it is there."""
    manifest = read_json(folder / MANIFEST)
    try:
        whole = manifest["format"] == FORMAT and {"count", "max_bytes"} <= set(manifest)
        whole = whole and all(FIELDS <= set(record) for record in manifest["instances"].values())
    except (KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise UserError(
            f"{folder / MANIFEST} is not the manifest of a pool, or another version of everseg wrote "
            "it; restore it from a copy, or choose another folder"
        )
    return manifest


def _files(manifest: dict[str, Any]) -> set[str]:
    return {record[kind] for record in manifest["instances"].values() for kind in KINDS}
