"""The napari plug-in: its manifest, the session behind it, and the panel itself, offscreen."""

from __future__ import annotations

import os
import shutil
import sys
import time
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from everseg.data import Stream
from everseg.errors import UserError
from everseg.models.promptable.load import load_base
from everseg.napari import session as used
from everseg.napari.session import Session, as_bytes
from everseg.napari.stage import gated_learn
from everseg.runs.folder import load

ROOT = Path(__file__).parents[2]
EARLIER = ROOT / "tests" / "assets" / "earlier_run"
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
NONE = np.zeros((0, 2))


@pytest.fixture
def learned(tmp_path: Path) -> tuple[Path, str]:
    shutil.copytree(EARLIER, tmp_path / "earlier")
    return tmp_path / "earlier" / "runs" / "samcl", str(tmp_path / "earlier" / "base")


def test_the_manifest_is_where_the_entry_point_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["napari.manifest"]["everseg"].partition(":")
    path = ROOT / "src" / Path(*module.split(".")) / name
    manifest = yaml.safe_load(path.read_text())
    assert manifest["name"] == project["name"]
    (command,) = manifest["contributions"]["commands"]
    where, _, kind = command["python_name"].partition(":")
    source = ROOT / "src" / Path(*where.split(".")).with_suffix(".py")
    assert f"class {kind}(" in source.read_text()
    assert manifest["contributions"]["widgets"][0]["command"] == command["id"]


def test_clicks_and_boxes_are_what_the_run_is_asked(learned: tuple[Path, str]) -> None:
    session = Session(*learned)
    run = load(learned[0], load_base(learned[1]))
    found = session.segment(PICTURE, np.array([[20.0, 10.0]]), np.array([[2.0, 3.0]]), [])
    wanted = run.predict(PICTURE, [(10.5, 20.5), (3.5, 2.5)], [1, 0])
    assert np.array_equal(found.labels == 1, wanted.masks[0])
    assert wanted.route.name in found.said
    alone = session.segment(PICTURE, np.array([[20.0, 10.0]]), NONE, [])
    assert np.array_equal(alone.labels == 1, run.predict(PICTURE, [(10.5, 20.5)]).masks[0])
    corners = np.array([[5.0, 6.0], [5.0, 30.0], [25.0, 30.0], [25.0, 6.0]])
    found = session.segment(PICTURE, NONE, NONE, [corners])
    assert np.array_equal(found.labels == 1, run.predict(PICTURE, boxes=(6.5, 5.5, 30.5, 25.5)).masks[0])
    with pytest.raises(UserError, match="no prompt points at an object"):
        session.segment(PICTURE, NONE, np.array([[2.0, 3.0]]), [])


def test_labels_become_a_stage_that_is_learned(
    learned: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, labels = Session(*learned), np.zeros((40, 50), int)
    with pytest.raises(UserError, match="is empty"):
        session.keep(tmp_path / "kept", "fields", PICTURE, labels)
    labels[5:15, 5:15], labels[20:30, 20:40] = 1, 7
    for n in range(4):
        assert session.keep(tmp_path / "kept", "fields", np.roll(PICTURE, n, 0), labels) == 2
    streams: list[Path] = []

    def says(script: str) -> None:
        command = [sys.executable, "-c", script]
        monkeypatch.setattr(used, "gated_learn", lambda run, stream, base: streams.append(stream) or command)

    says("import sys; print('step 1\\n\\nstep 2', file=sys.stderr); print('a table')")
    before = session.run
    assert list(session.learn(tmp_path / "kept", "fields")) == ["step 1", "step 2"]
    assert session.run is not before, "it was read again"
    stage = Stream.from_yaml(streams[0]).stages[-1]
    assert (stage.name, len(stage.train), len(stage.test)) == ("fields", 6, 2)
    says("import sys; sys.exit('error: it is worse')")
    with pytest.raises(UserError, match="fields was not learned: it is worse"):
        list(session.learn(tmp_path / "kept", "fields"))
    says("import sys, time; print('begun', file=sys.stderr, flush=True); time.sleep(60)")
    learning = session.learn(tmp_path / "kept", "fields")
    assert next(learning) == "begun"
    session.stop()
    with pytest.raises(UserError, match="learning was stopped; learn again to resume"):
        next(learning)


def test_the_command_is_that_by_which_the_run_was_begun(learned: tuple[Path, str]) -> None:
    command = gated_learn(load(learned[0], load_base(learned[1])), Path("stream.yaml"), learned[1])
    assert command[3:5] == ["learn", "stream.yaml"] and command[-3:] == ["--gate", "--undecided", "accept"]
    for option, value in (("--out", str(learned[0])), ("--method", "samcl"), ("--base", learned[1])):
        assert command[command.index(option) + 1] == value


def test_pictures_of_other_kinds_are_shown_as_napari_shows_them() -> None:
    deep = np.array([[0, 500, 1000, 2000]], np.uint16)
    assert as_bytes(deep, (0, 1000)).tolist() == [[0, 128, 255, 255]]
    assert as_bytes(np.zeros((2, 2, 4), np.uint8), (0, 1)).shape == (2, 2, 3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_panel_offscreen(learned: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("napari") is None:
        pytest.skip("napari is not installed: pip install 'everseg[napari]'")
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    from napari.components import ViewerModel
    from qtpy.QtWidgets import QApplication

    from everseg.napari.widget import BOXES, LEARN, MASKS, OFF, ON, STOP, EversegWidget

    app = QApplication.instance() or QApplication([])
    viewer: Any = ViewerModel()
    viewer.add_image(PICTURE, rgb=True)
    panel = EversegWidget(viewer)
    panel.buttons["Segment"].click()
    assert "no run is open" in panel.status.text()
    panel.path.setText(str(learned[0]))
    panel.base.setText(learned[1])
    panel.buttons["Open"].click()
    assert panel.status.text().startswith("samcl")
    assert {ON, OFF, BOXES} <= {layer.name for layer in viewer.layers}
    viewer.layers[ON].add([20, 10])
    panel.buttons["Segment"].click()
    assert viewer.layers[MASKS].data.shape == (40, 50)
    assert "p: " in panel.module.text() or "(" in panel.module.text()
    panel.buttons["Keep these labels"].click()
    assert panel.status.text() == "1 object kept; 1 image of napari"
    script = (
        "import sys, time\nfor n in range(4): print('step', n, file=sys.stderr, flush=True); time.sleep(0.3)"
    )
    monkeypatch.setattr(used, "gated_learn", lambda *given: [sys.executable, "-c", script])
    for n in range(2):
        panel.session.keep(panel._folder(), "napari", np.roll(PICTURE, n, 0), viewer.layers[MASKS].data > 0)
    panel.buttons[LEARN].click()
    assert panel.buttons[STOP].isVisibleTo(panel) and not panel.buttons[LEARN].isEnabled()
    said, began = set(), time.monotonic()
    while not panel.buttons[LEARN].isEnabled() and time.monotonic() - began < 120:
        app.processEvents()
        said.add(panel.status.text())
        time.sleep(0.01)
    assert {"learning napari: step 1", "learning napari: step 2"} <= said, "the window goes on meanwhile"
    assert panel.status.text().startswith("learned: ") and not panel.buttons[STOP].isVisibleTo(panel)
    assert app is not None and os.environ["QT_QPA_PLATFORM"] == "offscreen"
