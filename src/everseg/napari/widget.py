"""The napari plug-in's panel: open a run, click or draw a box, get masks, learn from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtWidgets import (
    QApplication,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from everseg.errors import UserError
from everseg.text import plural

if TYPE_CHECKING:
    from everseg.napari.session import Session

ON, OFF, BOXES, MASKS = "on the object", "off the object", "boxes", "everseg masks"
"""Names of the layers."""
LEARN, STOP = "Learn from the labels kept", "Stop learning"


class EversegWidget(QWidget):  # type: ignore[misc]  # Qt has no types here.
    """Points and boxes of a viewer's layers as prompts for a run; its masks as a labels layer."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.session: Session | None = None
        self.path, self.domain = QLineEdit(), QLineEdit("napari")
        self.base = QLineEdit()
        self.base.setPlaceholderText("as the run says")
        self.module, self.status = QLabel("–"), QLabel("open a run")  # noqa: RUF001
        for text in (self.module, self.status):
            text.setWordWrap(True)
        form = QFormLayout()
        form.addRow("Run", self._beside(self.path, "…", self._choose))
        form.addRow("Base", self.base)
        form.addRow("Module", self.module)
        form.addRow("Domain", self.domain)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        self.buttons: dict[str, QPushButton] = {}
        for name, what in (
            ("Open", self.open),
            ("Add layers for clicks and boxes", self.add_layers),
            ("Segment", self.segment),
            ("Keep these labels", self.keep),
            (LEARN, self.learn),
            (STOP, self.stop),
        ):
            self.buttons[name] = QPushButton(name)
            self.buttons[name].clicked.connect(lambda checked=False, work=what: self._tried(work))
            layout.addWidget(self.buttons[name])
        layout.addWidget(self.status)
        layout.addStretch()
        self._busy(False)
        if (app := QApplication.instance()) is not None:
            app.aboutToQuit.connect(self.stop)

    def open(self) -> None:
        """Read the run."""
        from everseg.napari.session import Session

        self.session = Session(Path(self.path.text()), self.base.text() or None)
        self.status.setText(f"{self.session.run.config.method}: {', '.join(self.session.run.learned)}")
        self.add_layers()

    def add_layers(self) -> None:
        """Add the layers for prompts that are not there."""
        names = {layer.name for layer in self.viewer.layers}
        if ON not in names:
            self.viewer.add_points(name=ON, face_color="limegreen", size=6, ndim=2)
        if OFF not in names:
            self.viewer.add_points(name=OFF, face_color="red", size=6, ndim=2)
        if BOXES not in names:
            layer = self.viewer.add_shapes(
                name=BOXES, face_color="transparent", edge_color="deepskyblue", ndim=2
            )
            layer.mode = "add_rectangle"

    def segment(self) -> None:
        """Prompts to masks."""
        session = self._opened()
        layers = self.viewer.layers
        on, off = (layers[name].data if name in layers else np.zeros((0, 2)) for name in (ON, OFF))
        boxes = list(layers[BOXES].data) if BOXES in layers else []
        found = session.segment(self._picture(), on, off, boxes)
        if MASKS in layers:
            layers[MASKS].data = found.labels
        else:
            self.viewer.add_labels(found.labels, name=MASKS)
        self.module.setText(found.said)
        self.status.setText(plural(int(np.count_nonzero(np.unique(found.labels))), "object"))

    def keep(self) -> None:
        """Keep the image and its labels, as they are or as they were corrected, for the domain."""
        if MASKS not in self.viewer.layers:
            raise UserError("there are no masks; segment an object first")
        labels = np.asarray(self.viewer.layers[MASKS].data)
        count = self._opened().keep(self._folder(), self.domain.text(), self._picture(), labels)
        kept = len(list((self._folder() / self.domain.text() / "annotations").glob("*.json")))
        told = f"{plural(count, 'object')} kept; {plural(kept, 'image')} of {self.domain.text()}"
        self.status.setText(told)

    def learn(self) -> None:
        """Learn the domain from what was kept, in a thread; the window goes on answering."""
        from superqt.utils import create_worker

        session, domain = self._opened(), self.domain.text()
        self.status.setText(f"learning {domain} …")
        self._busy(True)
        worker = create_worker(session.learn, self._folder(), domain, _start_thread=False)
        worker.yielded.connect(lambda said: self.status.setText(f"learning {domain}: {said}"))
        worker.errored.connect(lambda error: self.status.setText(str(error)))
        worker.returned.connect(lambda _: self.status.setText(f"learned: {', '.join(session.run.learned)}"))
        worker.finished.connect(lambda: self._busy(False))
        worker.start()

    def stop(self) -> None:
        """Stop learning."""
        if self.session is not None:
            self.session.stop()

    def _busy(self, learns: bool) -> None:
        """One run learns one thing at a time, and is not exchanged meanwhile."""
        for name in ("Open", LEARN):
            self.buttons[name].setEnabled(not learns)
        self.buttons[STOP].setVisible(learns)

    def _folder(self) -> Path:
        run = self._opened().run.folder
        return run.with_name(f"{run.name}-napari")

    def _opened(self) -> Session:
        if self.session is None:
            raise UserError("no run is open; name its folder and press Open")
        return self.session

    def _picture(self) -> Any:
        """The picture of the first image layer, or of the active one, that is shown now."""
        from napari.layers import Image

        from everseg.napari.session import as_bytes

        images = [layer for layer in self.viewer.layers if isinstance(layer, Image)]
        active = self.viewer.layers.selection.active
        if not images:
            raise UserError("there is no image; open one in napari")
        layer = active if active in images else images[0]
        data = np.asarray(layer.data[0] if layer.multiscale else layer.data)
        planes = data.ndim - (3 if layer.rgb else 2)
        step = self.viewer.dims.current_step
        for axis in range(planes):
            data = data[step[axis]]
        return as_bytes(data, layer.contrast_limits)

    def _choose(self) -> None:
        if folder := QFileDialog.getExistingDirectory(self, "Run folder"):
            self.path.setText(folder)

    def _beside(self, field: Any, text: str, work: Any) -> Any:
        box, button = QWidget(), QPushButton(text)
        row = QHBoxLayout(box)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(field)
        row.addWidget(button)
        button.clicked.connect(lambda checked=False: work())
        return box

    def _tried(self, work: Any) -> None:
        """A fault is a sentence in the panel."""
        try:
            work()
        except UserError as error:
            self.status.setText(str(error))
