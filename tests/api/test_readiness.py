"""Who is told how destinations do, and what: states and figures, never an address, a secret or a foreign text."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from app.infrastructure.persistence.backlog import SqlBacklog
from tests.api.monitored import bad, configure, good, look_always, scraped_until
from tests.api.serving import Served
from tests.api.test_access import bearing, key_of


async def served_with(
    serve: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch, *destinations: dict[str, Any]
) -> Served:
    configure(monkeypatch, folder, *destinations)
    look_always(monkeypatch)
    served: Served = await serve()
    assert (await (await served.session()).chat("hello")).status_code == 200
    return served


async def test_how_each_destination_does(
    serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = await served_with(serve, tmp_path, monkeypatch, good(tmp_path), bad())
    await scraped_until(served, "scr_events_routed_total", 1, destination="audit")
    await scraped_until(served, "scr_routing_failures_total", 1, destination="billing")
    reply = await served.http.get("/readyz?verbose")
    told = reply.json()
    assert reply.status_code == 200, "a destination that is away does not make a server unready"
    assert (told["ready"], told["database"], told["relay"]) == (True, "ok", "ok")
    assert told["spool"] == {
        "waiting_bytes": 0,
        "max_bytes": 1 << 30,
        "dropped": 0,
        "refused": 0,
        "put_aside": 0,
    }
    audit, billing = told["destinations"]
    assert (audit["name"], audit["state"], audit["pending"], audit["dead"]) == ("audit", "ok", 0, 0)
    assert datetime.fromisoformat(audit["last_success"]).utcoffset() is not None
    assert (audit["last_failure"], audit["oldest_seconds"]) == (None, None)
    assert (billing["name"], billing["state"], billing["pending"]) == ("billing", "failing", 1)
    assert billing["last_success"] is None
    assert billing["oldest_seconds"] >= 0
    for private in ("hunter2", "127.0.0.1", "ClientConnector", str(tmp_path)):
        assert private not in reply.text
    assert told["seen_seconds_ago"] >= 0


async def test_without_verbose_nothing_more_is_told(
    serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = await served_with(serve, tmp_path, monkeypatch, good(tmp_path))
    assert (await served.http.get("/readyz")).json() == {"ready": True, "database": "ok"}
    assert (await served.http.get("/readyz?terse")).json() == {"ready": True, "database": "ok"}


@pytest.mark.parametrize("query", ["verbose", "verbose=1", "verbose=", "a=1&verbose", "v%65rbose"])
async def test_details_are_for_operators(demo: Served, query: str) -> None:
    assert "destinations" in (await demo.http.get(f"/readyz?{query}")).json()
    admin = await key_of(demo, scopes=frozenset({"admin"}))
    reader = await key_of(demo, scopes=frozenset({"read"}))
    path = f"/readyz?{query}"
    assert (await demo.http.get(path)).status_code == 401
    assert (await demo.http.get(path, headers=bearing(reader))).status_code == 403
    told = await demo.http.get(path, headers=bearing(admin))
    assert (told.status_code, told.json()["relay"]) == (200, "off")
    for probe in ("/readyz", "/health", "/healthz"):
        assert (await demo.http.get(probe, headers={"host": "agents.example.org"})).status_code == 200


async def test_dead_letters_and_forgotten_destinations(
    serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = await served_with(serve, tmp_path, monkeypatch, good(tmp_path))
    store = SqlBacklog(served.container.access._store._engine)
    await scraped_until(served, "scr_events_routed_total", 1)
    engine = store._engine
    async with engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE completion_deliveries SET state = 'dead'")
        for name in ("renamed", "we_1", "we_2"):
            await connection.exec_driver_sql(
                "INSERT INTO completion_destinations (name, position, lease_until_ms, failures, resume_at_ms, "
                f"created_at) VALUES ('{name}', 0, 0, 1, 0, '2026-01-01 00:00:00')"
            )
    assert len(await store.destinations()) == 3
    told = (await served.http.get("/readyz?verbose")).json()["destinations"]
    assert [(one["name"], one["state"]) for one in told] == [
        ("audit", "dead_letters"),
        ("webhook_endpoints", "failing"),
    ]
    assert "we_" not in json.dumps(told).replace("webhook_endpoints", "")


async def test_health_has_two_names(demo: Served, quiet_logs: list[dict[str, Any]]) -> None:
    for path in ("/health", "/healthz"):
        assert (await demo.http.get(path)).json() == {"status": "ok"}
        assert (await demo.http.head(path)).status_code == 200
    assert {line["log_level"] for line in quiet_logs if line["event"] == "http_request"} == {"debug"}
