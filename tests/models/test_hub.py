"""Names that are no local path: decided by one short request, and read without a bar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from transformers.utils import logging

from everseg.errors import UserError
from everseg.models.hub import no_bar, only_cached
from everseg.models.promptable.load import load_base


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names that a hub without a network was asked for."""
    names: list[str] = []

    def model_info(self: HfApi, name: str, *, timeout: float) -> Any:
        assert timeout <= 5
        names.append(name)
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(HfApi, "model_info", model_info)
    return names


@pytest.mark.parametrize(
    "name", ["nowhere", "./no/where", "a/b/c", "~/sam", "back\\slash", "tests/nowhere", ""]
)
def test_a_path_that_leads_nowhere_is_refused_without_asking(
    asked: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tests").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"base .* was found neither as a folder nor on the hub \(there is"):
        only_cached("base", name)
    assert asked == []


def test_without_a_network_the_hub_is_asked_once_and_the_cache_decides(asked: list[str]) -> None:
    assert only_cached("base", "facebook/sam-vit-base")
    with pytest.raises(
        UserError, match=r"base 'nobody/nothing' was found neither as a folder nor on the hub"
    ):
        load_base("nobody/nothing")
    assert asked == ["facebook/sam-vit-base", "nobody/nothing"]


def test_the_hub_says_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HfApi, "model_info", lambda self, name, timeout: name)
    assert not only_cached("base", "facebook/sam-vit-base")


def test_no_bar_where_the_weights_are_here(
    micro_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = logging.is_progress_bar_enabled()
    logging.enable_progress_bar()
    try:
        load_base(str(micro_folder))
        assert capfd.readouterr().err == ""
        assert logging.is_progress_bar_enabled()
        with no_bar("facebook/sam-vit-base"):  # It would be downloaded.
            assert logging.is_progress_bar_enabled()
    finally:
        if not before:
            logging.disable_progress_bar()
