"""What tests of the capture client share."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.capture import SessionCompletionRuntime
from app.capture_settings import CaptureSettings
from tests.unit.capture.receiving import Receiver, receiving


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., SessionCompletionRuntime]]:
    """Make runtimes over one folder, with any setting; they are closed behind the test."""
    made: list[SessionCompletionRuntime] = []

    def make(**values: Any) -> SessionCompletionRuntime:
        defaults: dict[str, Any] = {"spool_dir": tmp_path / "spool", "timeout_ms": 5_000, "flush_interval_ms": 20}
        runtime = SessionCompletionRuntime("sk-test", settings=CaptureSettings(**{**defaults, **values}))
        made.append(runtime)
        return runtime

    yield make
    for runtime in made:
        runtime.close(0)


@pytest.fixture
def event() -> dict[str, Any]:
    return {"session_id": "s1", "usage": {"input_tokens": 1, "output_tokens": 2}, "outcome": {"status": "success"}}
