"""Whatever is asked, the server never fails: no answer has the status 500."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

HERE = "http://127.0.0.1:8008"
CHOSEN = settings(
    max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True
)


@pytest.mark.slow
def test_no_request_makes_the_server_fail(start: Callable[..., Any]) -> None:
    """Requests as the schema has them and requests that break it; of each other one the image and the session
    exist."""
    _, client = start(live=True)
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    image = client.get("/api/images").json()["images"][0]["id"]
    session = client.post("/api/sessions").json()["session"]
    seen: dict[int, int] = {}

    def asked(case: Any) -> None:
        if sum(seen.values()) % 2:
            if "image" in (case.path_parameters or {}):
                case.path_parameters["image"] = image
            if "session" in (case.path_parameters or {}):
                case.path_parameters["session"] = session
            if isinstance(case.body, dict) and "session" in case.body:
                case.body["session"] = session
        request = case.as_transport_kwargs(base_url=HERE)
        request.pop("cookies", None)
        if isinstance(request.get("data"), str | bytes):
            request["content"] = request.pop("data")
        try:
            answer = client.request(**request)
        except (TypeError, ValueError, UnicodeError):  # What the client itself cannot send.
            return
        seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
        assert answer.status_code < 500 or answer.status_code in (503, 507), (case, answer.text)

    for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
        for result in schema.get_all_operations():
            with suppress(Unsatisfiable):  # Nothing is wrong with a request that has no parameters.
                CHOSEN(given(result.ok().as_strategy(generation_mode=mode))(asked))()
    assert sum(seen.values()) > 500 and {200, 400, 404, 422} <= set(seen), seen
