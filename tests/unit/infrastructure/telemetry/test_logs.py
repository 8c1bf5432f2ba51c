import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from app.infrastructure.telemetry.logs import configure_logs, redacted


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[pytest.CaptureFixture[str]]:
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    configure_logs("info", "json")
    yield capsys
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Incorrect API key provided: sk-proj-abcdef0123456789", "Incorrect API key provided: ***"),
        ("Authorization: Bearer eyJhbGciOi.xyz", "Authorization: Bearer ***"),
        ("postgresql://app:hunter2@db/agents", "postgresql://app:***@db/agents"),
        ("listening on http://127.0.0.1:8000/docs", "listening on http://127.0.0.1:8000/docs"),
        ("a task-force of sk-8 skaters", "a task-force of sk-8 skaters"),
    ],
)
def test_secrets_are_taken_out(text: str, expected: str) -> None:
    assert redacted(text) == expected


def test_lines_are_json_with_level_and_time(lines: pytest.CaptureFixture[str]) -> None:
    structlog.get_logger("test").info("run_ended", run_id="run_1")
    line = json.loads(lines.readouterr().err)
    assert (line["event"], line["level"], line["run_id"]) == ("run_ended", "info", "run_1")
    assert line["timestamp"].endswith("Z")


def test_tracebacks_lose_their_secrets_and_stay_on_one_line(lines: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError("key sk-proj-abcdef0123456789 is wrong")
    except ValueError:
        structlog.get_logger("test").exception("tool_failed")
    output = lines.readouterr().err
    assert output.count("\n") == 1
    assert "ValueError" in json.loads(output)["exception"]
    assert "abcdef0123456789" not in output


def test_the_standard_library_logs_the_same_way(lines: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("some.library").warning("token sk-proj-abcdef0123456789 for %s", "me")
    line = json.loads(lines.readouterr().err)
    assert line["level"] == "warning"
    assert line["event"] == "token *** for me"


def test_lower_levels_and_chatty_libraries_are_quiet(lines: pytest.CaptureFixture[str]) -> None:
    structlog.get_logger("test").debug("detail")
    logging.getLogger("httpx2").info("HTTP request")
    assert lines.readouterr().err == ""
