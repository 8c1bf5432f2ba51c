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


FIELDS = {"timestamp", "level", "component", "message"}


@pytest.mark.parametrize(
    ("logger", "component", "level"),
    [
        ("app.capture", "capture", "WARNING"),
        ("app.capture.runtime", "capture", "WARNING"),
        ("app.infrastructure.completions.spool", "capture", "WARNING"),
        ("app.services.event_intake", "intake", "WARNING"),
        ("app.infrastructure.completions.relay", "relay", "WARNING"),
        ("app.services.deliveries", "delivery", "WARNING"),
        ("app.services.delivery_rounds", "delivery", "WARNING"),
        ("app.infrastructure.completions.destinations.nats", "delivery", "WARNING"),
        ("app.capture_settings", "capture_settings", "warning"),
        ("app.services.executions", "executions", "warning"),
        ("foreign.error", "foreign", "warning"),
    ],
)
@pytest.mark.parametrize("standard", [True, False], ids=["logging", "structlog"])
def test_every_json_line_has_the_plans_fields(
    lines: pytest.CaptureFixture[str], logger: str, component: str, level: str, *, standard: bool
) -> None:
    if standard:
        fields = {"event_id": "evt_1", "session_id": "conv_1", "latency_ms": 7}
        logging.getLogger(logger).warning("delivery_dead", extra=fields)
    else:
        structlog.get_logger(logger).warning("delivery_dead", event_id="evt_1", session_id="conv_1", latency_ms=7)
    line = json.loads(lines.readouterr().err)
    assert set(line) >= FIELDS
    assert (line["component"], line["level"]) == (component, level)
    assert line["message"] == line["event"] == "delivery_dead"
    assert (line["event_id"], line["session_id"], line["latency_ms"]) == ("evt_1", "conv_1", 7)


def test_a_component_that_is_told_stays(lines: pytest.CaptureFixture[str]) -> None:
    logger = structlog.get_logger("app.infrastructure.completions.destinations.log")
    logger.info("completion", component="billing", message="as told")
    line = json.loads(lines.readouterr().err)
    assert (line["component"], line["message"], line["level"]) == ("billing", "as told", "INFO")


def test_a_text_is_told_once_and_without_colours(lines: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("foreign.error").info("Started [%d]", 7, extra={"color_message": "Started [\x1b[36m%d\x1b[0m]"})
    said = lines.readouterr().err
    assert json.loads(said)["message"] == "Started [7]"
    assert "color_message" not in said


def test_a_logger_without_a_name(lines: pytest.CaptureFixture[str]) -> None:
    structlog.get_logger().info("started")
    line = json.loads(lines.readouterr().err)
    assert (line["component"], line["message"], line["level"]) == ("app", "started", "info")


def test_secrets_are_taken_out_of_messages_too(lines: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("app.capture").error("refused: sk-proj-abcdef0123456789")
    output = lines.readouterr().err
    assert "abcdef0123456789" not in output
    assert json.loads(output)["message"] == "refused: ***"


def test_lines_for_people_stay_short(capsys: pytest.CaptureFixture[str], restored: None) -> None:
    configure_logs("info", "console")
    structlog.get_logger("app.services.deliveries").warning("delivery_dead", event_id="evt_1")
    said = capsys.readouterr().err
    assert said.count("delivery_dead") == 1
    assert "component" not in said


@pytest.fixture
def restored() -> Iterator[None]:
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)
