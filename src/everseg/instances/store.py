"""The pool as a folder that a person can open: pictures, masks, and a manifest that says what they are."""

from __future__ import annotations

import hashlib
from pathlib import Path

from everseg.errors import UserError
from everseg.files import read_json, write_bytes, write_json
from everseg.instances.pool import Instance, InstancePool

MANIFEST = "manifest.json"
FORMAT = 1


def save_pool(pool: InstancePool, folder: Path) -> None:
    """Write the pool: `NAME.jpg` or `.png`, `NAME.mask.png`, and `manifest.json`.

    The manifest is replaced last, and what it no longer names is deleted after that: an interrupted save
    leaves the old pool or the new one.

    Raises:
        UserError: the folder cannot be written.
    """
    records = {}
    for name, item in pool.items.items():
        picture = name + (".png" if item.picture.startswith(b"\x89PNG") else ".jpg")
        files = {"picture": picture, "mask": f"{name}.mask.png"}
        for file, content in ((files["picture"], item.picture), (files["mask"], item.mask)):
            if not (folder / file).is_file() or (folder / file).read_bytes() != content:
                write_bytes(folder / file, content)
        records[name] = item.record() | files
    manifest = {"format": FORMAT, "count": pool.count, "max_bytes": pool.max_bytes, "instances": records}
    write_json(folder / MANIFEST, manifest)
    named = {MANIFEST} | {record[kind] for record in records.values() for kind in ("picture", "mask")}
    for path in folder.iterdir():
        if path.name not in named and path.suffix in (".png", ".jpg"):
            path.unlink()


def load_pool(folder: Path) -> InstancePool:
    """Read what `save_pool` wrote.

    Raises:
        UserError: there is no manifest, or a picture is missing or not the one that was saved.
    """
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{folder / MANIFEST} is no manifest of a pool, or one of another version of everseg")
    pool = InstancePool(manifest["count"], manifest["max_bytes"])
    for name, record in manifest["instances"].items():
        content = []
        for kind in ("picture", "mask"):
            path = folder / record[kind]
            if not path.is_file():
                raise UserError(
                    f"{path} is missing; restore it from a copy, or take {name} out of {folder / MANIFEST}"
                )
            content.append(path.read_bytes())
        if hashlib.sha256(b"".join(content)).hexdigest() != record["sha256"]:
            raise UserError(
                f"{folder / record['picture']} or its mask was changed after it was saved; restore both from "
                f"a copy, or take {name} out of {folder / MANIFEST}"
            )
        item = Instance.restore(record, *content)
        pool.items[name] = item
    return pool
