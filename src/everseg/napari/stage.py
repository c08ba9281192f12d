"""Masks that were drawn in another tool, kept as the stage of a stream, and learned.

images/7.png           image 7
annotations/7.json     its newest masks
train.json test.json   both as COCO files: every fourth image is held out
stream.yaml            the run's own stream with this stage behind the others
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from everseg.data import read_image
from everseg.data.domains.coco_results import coco_entry
from everseg.data.streamfile import is_name
from everseg.errors import UserError
from everseg.files import read_json, write_bytes, write_json, write_text
from everseg.pictures.drawn import Region
from everseg.runs.continued import learn_command
from everseg.runs.run import Run
from everseg.text import read_text

HELD_OUT = 4
"""One in this many images is a test image."""

Mask = NDArray[np.bool_]


class Annotations:
    """The folder in which annotated images are kept."""

    def __init__(self, folder: Path, stage: str) -> None:
        if not is_name(stage):
            raise UserError(f"{stage!r} is not a valid stage name; use letters, digits, '.', '_' and '-'")
        self.folder, self.stage = folder, stage
        self.lock = threading.Lock()

    def keep(self, number: int, image: bytes, objects: Sequence[tuple[str, Mask]]) -> None:
        """Keep the newest masks (H, W) of an image, an encoded file, with their labels."""
        with self.lock:
            path = self.folder / "images" / f"{number}.png"
            write_bytes(path, image)
            height, width = read_image(path).shape[-2:]
            rows = [
                {"label": label, **coco_entry(Region.of(mask, 0, 0, (int(height), int(width))))}
                for label, mask in objects
            ]
            kept = {"image": number, "height": int(height), "width": int(width), "objects": rows}
            write_json(self.folder / "annotations" / f"{number}.json", kept)

    def drop(self, number: int) -> None:
        """Forget an image, whose masks were deleted."""
        with self.lock:
            for path in (
                self.folder / "images" / f"{number}.png",
                self.folder / "annotations" / f"{number}.json",
            ):
                path.unlink(missing_ok=True)

    def write_stage(self, own_stream: str | None) -> Path:
        """Write the images as a stage behind those of a run's stream; returns the stream file.

        Raises:
            UserError: there is nothing to train on or nothing held out.
        """
        with self.lock:
            found = [read_json(path) for path in sorted(self.folder.glob("annotations/*.json"))]
        found = sorted((one for one in found if one["objects"]), key=lambda one: int(one["image"]))
        test = found[HELD_OUT - 1 :: HELD_OUT] or found[-1:]
        train = [one for one in found if one not in test]
        if not train:
            raise UserError(
                f"{len(found)} annotated images are too few; give masks of at least two, because one is "
                "used for testing"
            )
        for name, rows in (("train", train), ("test", test)):
            write_json(self.folder / f"{name}.json", _coco(rows))
        stage = {
            "name": self.stage,
            **{
                name: {
                    "kind": "coco",
                    "images": str((self.folder / "images").resolve()),
                    "annotations": str((self.folder / f"{name}.json").resolve()),
                }
                for name in ("train", "test")
            },
        }
        tree: dict[str, Any] = {"name": self.stage, "stages": []}
        if own_stream and Path(own_stream).is_file():
            tree = yaml.safe_load(read_text(Path(own_stream)))
            tree["root"] = str((Path(own_stream).parent / tree.get("root", ".")).resolve())
        stages = [one for one in tree.get("stages", []) if one.get("name") != self.stage]
        path = self.folder / "stream.yaml"
        write_text(path, yaml.safe_dump({**tree, "stages": [*stages, stage]}, sort_keys=False))
        return path


def _coco(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    labels = sorted({o["label"] for row in rows for o in row["objects"]})
    ids = {label: n for n, label in enumerate(labels, 1)}
    drawn = [(row["image"], one) for row in rows for one in row["objects"]]
    return {
        "images": [
            {
                "id": row["image"],
                "file_name": f"{row['image']}.png",
                "height": row["height"],
                "width": row["width"],
            }
            for row in rows
        ],
        "annotations": [
            {
                "id": n,
                "image_id": task,
                "category_id": ids[one["label"]],
                "iscrowd": 0,
                **{k: one[k] for k in ("segmentation", "bbox", "area")},
            }
            for n, (task, one) in enumerate(drawn, 1)
        ],
        "categories": [{"id": n, "name": label} for label, n in ids.items()],
    }


def gated_learn(run: Run, stream: Path, base: str | None) -> list[str]:
    """The command by which a run continues with its own settings, and with the gate, so that harm is noticed.

    A stage of which the gate cannot tell is let in: few images were drawn, and somebody asked for it.
    """
    words = learn_command(run, stream, run.folder, base or "")
    return [sys.executable, "-m", "everseg", *words, "--gate", "--undecided", "accept"]


class Learning:
    """A command that learns, in a process of its own."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = command
        self.stopped = False
        self._process: subprocess.Popen[str] | None = None

    def said(self) -> Iterator[str]:
        """Run the command; what it says of its progress, line by line, as it says it.

        Raises:
            UserError: it failed or was stopped.
        """
        environment = os.environ | {
            "EVERSEG_PROGRESS_SECONDS": "1",
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "200",
        }
        last = ""
        with subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # tables of results, for terminals
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=environment,
        ) as process:
            self._process = process
            assert process.stderr is not None
            for line in process.stderr:
                if line.strip():
                    last = line.strip()
                    yield last
        if self.stopped:
            raise UserError("learning was stopped; learn again to resume it")
        if process.returncode:
            raise UserError(last.removeprefix("error: ") or f"exit code {process.returncode}")

    def stop(self) -> None:
        """End the process; `said` raises."""
        self.stopped = True
        if self._process is not None:
            self._process.terminate()
