"""The images that a server shows: those of the opened folder, and those that were uploaded or painted.

Nothing outside these folders is ever read: a link that leads out of them is left out, and images are asked
for by ids that the server made, never by paths.
"""

from __future__ import annotations

import hashlib
import io
import re
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from PIL import Image
from torch import Tensor

from everseg.data.decoding import Decoding
from everseg.data.imagefiles import decoded, is_volume
from everseg.data.images import open_header
from everseg.data.synthetic.domains import SyntheticDomain
from everseg.errors import UserError
from everseg.files import sha256_file, write_bytes
from everseg.pictures.encode import jpeg, png
from everseg.pictures.tile import fitted, picture_of
from everseg.runs.inputs import SUFFIXES, Source, find_images, stem
from everseg.serve.limits import Limits, Refused

KEPT = 512 * 2**20
"""Bytes of decoded images that are kept."""

LARGE = 8_000_000
"""Pixels from which on a picture is sent as JPEG, which a browser has sooner."""

THUMBNAIL = 160


@dataclass(frozen=True)
class Entry:
    """One image.

    id: its name in addresses.
    source: where it lies and what its results are called.

    shown: its name for people, a path below its folder.
    uploaded: whether the server keeps the file.
    """

    id: str
    source: Source
    shown: str
    uploaded: bool


class Gallery:
    """All images of a server.

    root: the opened folder or file; None for none. uploads: where uploaded files are kept.
    decoding: which bands are shown and how their values become 8 bits.
    """

    def __init__(self, root: Path | None, uploads: Path, decoding: Decoding, limits: Limits) -> None:
        self.root, self.uploads, self.decoding, self.limits = root, uploads, decoding, limits
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._decoded: OrderedDict[str, Tensor] = OrderedDict()
        self._digests: dict[str, tuple[tuple[int, int], str]] = {}
        if root is not None and not root.exists():
            raise UserError(f"{root} does not exist; give a folder of images or an image file")
        self.scan()

    def scan(self) -> None:
        """Look again which images there are."""
        found: dict[str, Entry] = {}
        for folder, uploaded in ((self.root, False), (self.uploads, True)):
            if folder is None or not folder.exists():
                continue
            images = list(self._below(folder, uploaded))
            if uploaded:  # Their folders are called by content.
                images.sort(key=lambda entry: entry.shown)
            found |= {entry.id: entry for entry in images}
        with self._lock:
            self._entries = found

    def _below(self, root: Path, uploaded: bool) -> Iterator[Entry]:
        top = root if root.is_dir() else root.parent
        inside = top.resolve()
        try:
            sources = find_images([root], self.uploads.parent)
        except UserError:
            if not uploaded and root.is_file():
                raise
            return
        for source in sources:
            if not source.path.resolve().is_relative_to(inside):
                continue
            below = source.path.relative_to(top).as_posix()
            shown = below if source.frame is None else f"{below}@{source.frame}"
            name = f"{'uploads' if uploaded else 'folder'}|{shown}".encode(errors="surrogateescape")
            own = re.sub(r"^[0-9a-f]{16}/", "", shown) if uploaded else shown
            path = source.path.absolute() if not uploaded else source.path
            yield Entry(
                hashlib.sha256(name).hexdigest()[:16],
                Source(path, source.name, source.frame),
                own.encode(errors="printable").decode(),
                uploaded,
            )

    def entries(self, under: str = "") -> list[Entry]:
        """The images in order; those below a sub-folder of the opened one where `under` names it.

        Raises:
            Refused: `under` leads out of the folder.
        """
        with self._lock:
            found = list(self._entries.values())
        if not under:
            return found
        parts = PurePosixPath(under.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in under or "\0" in under:
            raise Refused(403, "the path leads out of the opened folder; name a folder below it")
        return [e for e in found if not e.uploaded and PurePosixPath(e.shown).is_relative_to(parts)]

    def entry(self, image: str) -> Entry:
        """The image of an id.

        Raises:
            Refused: there is none.
        """
        with self._lock:
            found = self._entries.get(image)
        if found is None:
            raise Refused(404, f"there is no image {image!r}; reload the page")
        return found

    def pixels(self, entry: Entry) -> Tensor:
        """(3, H, W) uint8, as `everseg predict` reads it.

        Raises:
            UserError: the file cannot be read or has too many pixels.
        """
        with self._lock:
            kept = self._decoded.get(entry.id)
            if kept is not None:
                self._decoded.move_to_end(entry.id)
                return kept
        check_size(entry.source.path, self.limits)
        image = decoded(entry.source.path, self.decoding, entry.source.frame)
        self._check_pixels(int(image.shape[-1]), int(image.shape[-2]), entry.shown)
        with self._lock:
            self._decoded[entry.id] = image
            while len(self._decoded) > 1 and sum(i.numel() for i in self._decoded.values()) > KEPT:
                self._decoded.popitem(last=False)
        return image

    def digest(self, entry: Entry) -> str:
        """sha256 of the image file.

        Raises:
            UserError: it cannot be read.
        """
        path = entry.source.path
        try:
            stat = path.stat()
            now = (stat.st_mtime_ns, stat.st_size)
            known = self._digests.get(str(path))
            if known is None or known[0] != now:
                known = self._digests[str(path)] = (now, sha256_file(path))
        except OSError as error:
            raise UserError(f"cannot read {entry.shown}: {error.strerror}; reload the page") from error
        return known[1]

    def picture(self, entry: Entry, longest: int = 0) -> tuple[bytes, str]:
        """The image for a browser, and its type.

        longest: pixels of the longer side; 0 for all.
        """
        picture = picture_of(self.pixels(entry))
        if longest:
            size, _ = fitted(*picture.size, longest)
            return jpeg(picture.resize(size, Image.Resampling.BOX)), "image/jpeg"
        if picture.width * picture.height > LARGE:
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=92, subsampling=0)
            return buffer.getvalue(), "image/jpeg"
        return png(picture, 1), "image/png"

    def add(self, name: str, content: bytes) -> Entry:
        """Keep an uploaded file; one with the same content is kept once.

        Raises:
            Refused: it is too large, there are too many, or it is not an image.
        """
        if len(content) > self.limits.upload:
            raise Refused(413, f"{name!r} has more than {self.limits.upload} bytes; choose a smaller file")
        own = PurePosixPath(name.replace("\\", "/")).name
        suffix = ".nii.gz" if own.lower().endswith(".nii.gz") else Path(own).suffix.lower()
        if suffix not in SUFFIXES and not is_volume(Path(own)):
            raise Refused(415, f"{own!r} is not called like an image; use png, jpg, tif and the like")
        clean = re.sub(r"[^A-Za-z0-9_-]+", "-", stem(own)).strip("-")[:60] or "image"
        path = self.uploads / hashlib.sha256(content).hexdigest()[:16] / f"{clean}{suffix}"
        here = [file for file in path.parent.glob("*") if not file.name.startswith(".")]
        if not here:
            count = sum(1 for _ in self.uploads.iterdir()) if self.uploads.is_dir() else 0
            if count >= self.limits.uploads:
                raise Refused(413, f"{count} uploaded images are kept already; open them as a folder instead")
            self._try(content, path.suffix if suffix != ".nii.gz" else suffix, own)
            write_bytes(path, content)
        self.scan()
        kept = here[0] if here else path
        return next(e for e in self.entries() if e.uploaded and e.source.path == kept)

    def _try(self, content: bytes, suffix: str, name: str) -> None:
        """Decode a file where nobody sees it yet.

        Raises:
            Refused: it is not an image, or too large a one.
        """
        trial = self.uploads.parent / "arriving" / f"{hashlib.sha256(content).hexdigest()}{suffix}"
        write_bytes(trial, content)
        try:
            check_size(trial, self.limits, name)
            sources = find_images([trial], self.uploads)
            image = decoded(trial, self.decoding, sources[0].frame)
            self._check_pixels(int(image.shape[-1]), int(image.shape[-2]), name)
        except UserError as error:
            status = error.status if isinstance(error, Refused) else 415
            raise Refused(status, str(error).replace(str(trial), name)) from error
        finally:
            trial.unlink(missing_ok=True)

    def paint(self, domain: str, count: int, seed: int = 0) -> list[Entry]:
        """Paint images to try the page with, and keep them as if they were uploaded."""
        added = []
        for sample in SyntheticDomain(domain, count, seed=seed, split="serve"):
            name = sample.name.replace("-serve", "")
            added.append(self.add(name, png(picture_of(sample.image), 1)))
        return added

    def _check_pixels(self, width: int, height: int, name: str) -> None:
        if width * height > self.limits.pixels:
            raise Refused(413, f"{name} has {width}x{height} pixels, more than {self.limits.pixels}; cut it")


def check_size(path: Path, limits: Limits, name: str = "") -> None:
    """Check an image's number of pixels by its header, so that no bomb is decoded.

    Raises:
        Refused: there are too many.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_header(path) as header:
                width, height = header.size
    except Exception:  # No image to Pillow: the decoder says what is wrong.
        return
    if width * height > limits.pixels:
        raise Refused(
            413, f"{name or path.name} has {width}x{height} pixels, more than {limits.pixels}; cut it"
        )


def to_picture(image: Tensor) -> bytes:
    """(3, H, W) uint8 as PNG bytes."""
    return png(picture_of(image.to(torch.uint8)))
