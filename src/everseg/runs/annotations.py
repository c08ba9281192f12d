"""Predictions as files that annotation tools open: COCO, labelme and CVAT.

They are made from the images' records once all images are finished, so that a command that was interrupted
ends with the same files.

    annotations.coco.json           images, annotations with run lengths, categories
    labelme/x.json                  polygons; a mask where an object has holes
    cvat/SegmentationClass/x.png    CVAT's "Segmentation mask 1.1", with SegmentationObject, labelmap.txt and
                                    ImageSets/Segmentation/default.txt
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from everseg.data.domains.cvat import BACKGROUND
from everseg.data.domains.rle import decode_rle
from everseg.errors import UserError, printable
from everseg.files import atomic_path, write_bytes, write_text
from everseg.pictures.drawn import Region
from everseg.pictures.encode import SOFTWARE, is_ours, png
from everseg.pictures.outline import outlines
from everseg.pictures.palette import COLOURS
from everseg.runs.inputs import Source
from everseg.runs.outputs import OutputFolder

Tool = Literal["coco", "labelme", "cvat"]

DATASET = "annotations.coco.json"
UNNAMED = "object"
"""The label of objects that no prompt file names."""
HEADER = "# label:color_rgb:parts:actions\n# written by everseg\n"
"""How our labelmap.txt begins. CVAT passes over lines with a #."""


@dataclass(frozen=True)
class Annotated:
    """One finished image.

    number: ID of the image in COCO.
    record: content of the image's JSON file.
    """

    source: Source
    number: int | str
    record: Mapping[str, Any]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return int(self.record["size"]["height"]), int(self.record["size"]["width"])

    def regions(self) -> list[Region]:
        """The pixels of each object."""
        return [
            Region.of(decode_rle(entry["segmentation"]["counts"], *self.size), 0, 0, self.size)
            for entry in self.record["masks"]
        ]

    def labels(self, categories: Mapping[int, str]) -> list[str]:
        """The label of each object: its category's name, else its own."""
        return [
            categories.get(entry["category_id"]) or entry.get("object") or UNNAMED
            for entry in self.record["masks"]
        ]


def write_annotations(
    tool: Tool, folder: OutputFolder, images: Iterable[Annotated], categories: Mapping[int, str]
) -> Path:
    """Write the predictions of finished images for a tool; returns the file or folder.

    categories: names by COCO category id; empty where no COCO file names them.

    Raises:
        UserError: a file is in the way that everseg did not write, or that was edited since.
    """
    write = {"coco": _coco, "labelme": _labelme, "cvat": _cvat}[tool]
    return write(folder.root, list(images), categories)


def check_free(tool: Tool, out: Path, sources: Sequence[Source]) -> None:
    """Check before anything is predicted that a tool's files may be written.

    Raises:
        UserError: a file is in the way, or the tool opens no such images.
    """
    if tool == "labelme" and (frames := [s for s in sources if s.frame is not None]):
        raise UserError(
            f"labelme opens image files, not frames or slices such as {frames[0].place}; choose "
            "--format coco or cvat"
        )
    if tool == "coco":
        _check_dataset(out / DATASET)
    if tool == "cvat":
        _check_stems(sources)
        _check_labelmap(out / "cvat" / "labelmap.txt")


def common_folder(sources: Sequence[Source]) -> Path:
    """The deepest folder that all images lie in."""
    return Path(os.path.commonpath([os.path.abspath(source.path.parent) for source in sources]))


def _below(source: Source, root: Path) -> PurePosixPath:
    """An image's path below a folder; a frame's has its number."""
    path = PurePosixPath(os.path.relpath(os.path.abspath(source.path), root).replace(os.sep, "/"))
    return path if source.frame is None else path.with_name(f"{path.name}@{source.frame}")


# ---------------------------------------------------------------- COCO


def _coco(out: Path, images: Sequence[Annotated], categories: Mapping[int, str]) -> Path:
    path = out / DATASET
    _check_dataset(path)
    root = common_folder([image.source for image in images]) if images else out
    names = list(dict.fromkeys(label for image in images for label in image.labels(categories)))
    known = {name: number for number, name in categories.items()}
    free = (n for n in range(1, len(names) + len(known) + 1) if n not in known.values())
    ids = {name: known[name] if name in known else next(free) for name in names}
    rows: list[dict[str, Any]] = []
    for image in images:
        for entry, label in zip(image.record["masks"], image.labels(categories), strict=True):
            if not entry["area"]:  # A mask without pixels is an annotation that tools refuse.
                continue
            shape = {key: entry[key] for key in ("segmentation", "bbox", "area")}
            about = {"id": len(rows) + 1, "image_id": image.number, "category_id": ids[label], "iscrowd": 0}
            rows.append({**about, **shape, "score": entry.get("predicted_iou", 1.0)})
    dataset = {
        "info": {"description": f"predicted by {SOFTWARE}; file names are below {root.name}"},
        "images": [
            {
                "id": image.number,
                "file_name": str(_below(image.source, root)),
                "height": image.size[0],
                "width": image.size[1],
            }
            for image in images
        ],
        "annotations": rows,
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(dataset), encoding="utf-8")
    return path


def _check_dataset(path: Path) -> None:
    if path.exists():
        with path.open("rb") as file:
            begins = file.read(128).decode(errors="replace")
        if not begins.startswith(f'{{"info": {{"description": "predicted by {SOFTWARE}'):
            raise UserError(f"{path} already exists and was not written by everseg; choose another --out")


# ---------------------------------------------------------------- labelme


def _labelme(out: Path, images: Sequence[Annotated], categories: Mapping[int, str]) -> Path:
    root = out / "labelme"
    for image in images:
        path = root / f"{image.source.name}.json"
        _check_labelme(path)
        height, width = image.size
        shapes: list[dict[str, Any]] = []
        labels = image.labels(categories)
        for group, (label, region) in enumerate(zip(labels, image.regions(), strict=True), 1):
            shapes += _shapes(label, region, group)
        where = os.path.relpath(os.path.abspath(image.source.path), path.parent.resolve())
        content: dict[str, Any] = {
            "version": "5.0.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": where.replace(os.sep, "/"),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
            "writer": SOFTWARE,
            "digest": _digest(shapes),
        }
        write_text(path, json.dumps(content, indent=1))
    return root


def _shapes(label: str, region: Region, group: int) -> list[dict[str, Any]]:
    """An object as polygons, or as a mask where it has holes; its parts have one `group_id`."""
    rings, holes = outlines(region)
    about = {"label": label, "group_id": group, "description": "", "flags": {}}
    if holes:
        x, y, width, height = region.bbox
        patch = base64.b64encode(png(Image.fromarray(region.pixels.astype(np.uint8) * 255))).decode()
        corners = [[float(x), float(y)], [float(x + width - 1), float(y + height - 1)]]
        return [{**about, "shape_type": "mask", "points": corners, "mask": patch}]
    return [
        {**about, "shape_type": "polygon", "points": ring.round(2).tolist(), "mask": None} for ring in rings
    ]


def _digest(shapes: Sequence[Mapping[str, Any]]) -> str:
    """Of what is drawn, as labelme writes it back."""
    drawn = [[s["label"], s["group_id"], s["shape_type"], s["points"]] for s in shapes]
    return hashlib.sha256(json.dumps(drawn).encode()).hexdigest()


def _check_labelme(path: Path) -> None:
    if not path.exists():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        own = found["writer"] == SOFTWARE
        same = own and _digest(found["shapes"]) == found["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        own = same = False
    if not same:
        what = "was edited since everseg wrote it" if own else "was not written by everseg"
        raise UserError(f"{path} already exists and {what}; choose another --out")


# ---------------------------------------------------------------- CVAT


def _cvat(out: Path, images: Sequence[Annotated], categories: Mapping[int, str]) -> Path:
    root = out / "cvat"
    _check_labelmap(root / "labelmap.txt")
    stems = _stems([image.source for image in images])
    names = list(dict.fromkeys(label for image in images for label in image.labels(categories)))
    for name in names:
        if ":" in name or name.startswith("#") or name in (BACKGROUND, "") or name != printable(name.strip()):
            raise UserError(
                f"an object is called {name!r}, and CVAT's labelmap.txt has no such label: none with a "
                "colon, a # at the start or a line break, nor background; rename it or choose --format coco"
            )
    colours = {name: COLOURS[1 + n % 254] for n, name in enumerate(names)}
    if len(names) > 254:
        raise UserError(f"there are {len(names)} labels, but only 254 colours for them; choose --format coco")
    for image in images:
        classes, objects = (np.zeros((*image.size, 3), np.uint8) for _ in range(2))
        labels, regions = image.labels(categories), image.regions()
        # Where objects overlap, the smaller one is on top.
        for n in sorted(range(len(regions)), key=lambda n: -regions[n].count):
            regions[n].into(classes, colours[labels[n]])
            regions[n].into(objects, _numbered(n + 1))
        for kind, canvas in (("SegmentationClass", classes), ("SegmentationObject", objects)):
            path = root / kind / f"{stems[image.source]}.png"
            if path.exists() and not is_ours(path):
                raise UserError(f"{path} already exists and was not written by everseg; choose another --out")
            write_bytes(path, png(Image.fromarray(canvas)))
    rows = [f"{name}:{','.join(map(str, colour.tolist()))}::\n" for name, colour in colours.items()]
    listed = root / "ImageSets" / "Segmentation" / "default.txt"
    write_text(listed, "".join(f"{stem}\n" for stem in stems.values()))
    write_text(root / "labelmap.txt", f"{HEADER}{BACKGROUND}:0,0,0::\n{''.join(rows)}")
    return root


def _stems(sources: Sequence[Source]) -> dict[Source, str]:
    """The names of maps: images' paths below their deepest common folder, without suffixes."""
    if not sources:
        return {}
    root = common_folder(sources)
    paths = {source: _below(source, root) for source in sources}
    return {
        source: str(path if source.frame is not None else path.with_suffix(""))
        for source, path in paths.items()
    }


def _check_stems(sources: Sequence[Source]) -> None:
    """Check that no two images have one map.

    Raises:
        UserError: they differ by their suffixes alone.
    """
    having: dict[str, Source] = {}
    for source, stem in _stems(sources).items():
        if stem in having:
            raise UserError(
                f"{having[stem].place} and {source.place} differ by their suffixes alone, which the names of "
                "CVAT's maps leave out; rename one or choose --format coco"
            )
        having[stem] = source


def _numbered(n: int) -> NDArray[np.uint8]:
    """The colour of the n-th object of an image, as VOC numbers colours: the bits of n from the highest of
    each channel on."""
    colour = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            colour[channel] |= (n >> (3 * bit + channel) & 1) << (7 - bit)
    return np.array(colour, np.uint8)


def _check_labelmap(path: Path) -> None:
    if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(HEADER):
        raise UserError(f"{path} already exists and was not written by everseg; choose another --out")
