"""The guide's programs run, and each hands one event to the real runtime."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.capture import SessionCompletionRuntime
from app.services.session_payloads import session_event
from tests.unit.capture.recorder import own_tracing

GUIDE = Path(__file__).parents[3] / "docs" / "frameworks.md"
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Any]]:
    events: list[Any] = []
    real = SessionCompletionRuntime.capture

    def capture(self: SessionCompletionRuntime, event: Any) -> Any:
        receipt = real(self, event)
        assert receipt.accepted, receipt.reason
        events.append(session_event(event))
        return receipt

    monkeypatch.setattr(SessionCompletionRuntime, "capture", capture)
    monkeypatch.setenv("SCR_SPOOL_DIR", str(tmp_path / "spool"))
    monkeypatch.delenv("SCR_ENDPOINT", raising=False)
    monkeypatch.chdir(tmp_path)
    with own_tracing():
        yield events


@pytest.mark.parametrize(
    ("number", "session_id", "session_type", "total_tokens"),
    [
        (0, "chat-17", "autonomous", None),
        (1, "chat-17", "autonomous", None),
        (2, "chat-17", "autonomous", 12),
        (3, "call-17", "realtime", 120),
        (4, "call-17", "realtime", 1_200),
        (5, "s17", "api", 8),
    ],
    ids=["processor", "block", "langchain", "realtime", "realtime-told", "asgi"],
)
def test_a_program_captures_its_session(
    captured: list[Any], number: int, session_id: str, session_type: str, total_tokens: int | None
) -> None:
    exec(compile(PROGRAMS[number], "docs/frameworks.md", "exec"), {"__name__": "example"})
    (event,) = captured
    assert (event.session_id, event.payload["session_type"]) == (session_id, session_type)
    assert event.payload["usage"]["total_tokens"] == total_tokens
    assert event.outcome == ("user_terminated" if number == 4 else "success")


def test_every_program_is_run() -> None:
    assert len(PROGRAMS) == 6
