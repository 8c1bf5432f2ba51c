"""Lines of completion capture, as a log collector reads them, from a server under real traffic."""

import asyncio
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from app.infrastructure.telemetry.logs import configure_logs
from tests.api.monitored import bad, configure, good, look_always, scraped_until
from tests.api.serving import Served
from tests.api.test_metrics import session

FIELDS = {"timestamp", "level", "component", "message", "event_id", "session_id", "latency_ms"}


async def lines_of(
    serve: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[dict[str, Any]]:
    """Take one event from outside, deliver it, and give back what was logged."""
    configure(monkeypatch, folder, good(folder), bad() | {"retry_attempts": 1, "give_up_after_s": 0.001})
    look_always(monkeypatch)
    served: Served = await serve()
    configure_logs("debug", "json")
    taken = await served.http.post("/v1/events", json=session(7, event_id="evt_of_the_test"))
    assert taken.status_code == 202, taken.text
    await scraped_until(served, "scr_events_routed_total", 1, destination="audit")
    await scraped_until(served, "durable_agents_deliveries_dead_total", 1, destination="billing")
    await asyncio.sleep(0)
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


async def test_the_plans_fields_from_intake_to_delivery(
    serve: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    restored_logging: None,
) -> None:
    lines = await lines_of(serve, tmp_path, monkeypatch, capsys)
    for message, component, level in (
        ("events_taken", "intake", "INFO"),
        ("event_delivered", "delivery", "DEBUG"),
        ("delivery_dead", "delivery", "WARNING"),
    ):
        (line,) = [line for line in lines if line["message"] == message]
        assert set(line) >= FIELDS, message
        assert (line["component"], line["level"]) == (component, level)
        assert (line["event_id"], line["session_id"]) == ("evt_of_the_test", "s_7")
        assert line["latency_ms"] >= 0
        assert datetime.fromisoformat(line["timestamp"]).utcoffset() is not None
    assert all(set(line) >= {"timestamp", "level", "component", "message"} for line in lines)
    assert "hunter2" not in str(lines)
