"""What docs/eir.md shows runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "eir.md"


@pytest.mark.usefixtures("micro_model")  # which makes it run in one thread, see conftest.py
def test_the_parts_of_eir_run() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "eir.md", "exec"), names)
    assert names["classes"].shape == (1, 128, 128) and names["pasted"].pastes > 0
    assert names["model"].backbone.model.conv_stem.first_conv.convolution.weight.grad.any()
