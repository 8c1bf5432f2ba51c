"""`/metrics` as a scraper meets it: after real traffic, under load, guarded, and while things are away."""

import asyncio
import json
import math
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx2
import pytest
from agents import Agent
from agents.testing import ScriptedModel, assistant_message

from app.domain.identifiers import new_event_id
from app.domain.metrics_ports import NoMetrics
from app.infrastructure.completions.spool import SpoolWriter
from app.infrastructure.telemetry.metrics import PrometheusMetrics
from tests.api.monitored import Scrape, bad, configure, good, look_always, scraped, scraped_until
from tests.api.openai.gateway_app import BODIES, serve_gateway
from tests.api.serving import Served, says, scripted
from tests.api.test_access import bearing, key_of
from tests.fakes.openai import FakeOpenAI

TEN = {
    "scr_events_captured_total",
    "scr_events_captured_per_second",
    "scr_capture_latency_ms",
    "scr_events_routed_total",
    "scr_routing_failures_total",
    "scr_routing_latency_ms",
    "scr_buffer_size_bytes",
    "scr_buffer_utilization_percent",
    "scr_memory_usage_bytes",
    "scr_cpu_usage_percent",
}


def session(number: int = 0, **fields: Any) -> dict[str, Any]:
    """An event from outside."""
    return {
        "event_id": new_event_id(),
        "event_type": "session.completed",
        "session_id": f"s_{number}",
        "outcome": {"status": "success"},
        **fields,
    }


async def busy(serve: Callable[..., Any], fake: FakeOpenAI, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    """Serve, with a run, calls through the gateway, events from outside and from a spool; one destination is away."""
    configure(monkeypatch, folder, good(folder), bad())
    look_always(monkeypatch)
    served = await serve_gateway(serve, fake)
    assert (await (await served.session()).chat("hello")).status_code == 200
    path, body = BODIES["plain chat"]
    assert (await served.http.post(f"/v1{path}", json=body)).status_code == 200
    taken = await served.http.post("/v1/events", json={"events": [session(1), session(2), {"nonsense": True}]})
    assert (taken.status_code, taken.json()["accepted"], len(taken.json()["refused"])) == (202, 2, 1), taken.text
    spool = SpoolWriter(folder / "spool")
    spool.append(json.dumps(session(3)).encode())
    spool.append(b"no event")
    spool.close()
    return served


async def settled(served: Served) -> Scrape:
    """Wait until everything has arrived that can."""
    await scraped_until(served, "scr_events_captured_total", 5)
    await scraped_until(served, "scr_events_routed_total", 5, destination="audit")
    await scraped_until(served, "durable_agents_spool_put_aside_total", 1)
    return await scraped_until(served, "scr_routing_failures_total", 1, destination="billing")


async def test_the_ten_names_after_real_traffic(
    serve: Callable[..., Any], fake: FakeOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = await busy(serve, fake, tmp_path, monkeypatch)
    scrape = await settled(served)
    assert scrape.names >= TEN
    assert scrape.value("scr_events_captured_total") == 5
    assert {
        source: scrape.value("durable_agents_events_captured_total", source=source) for source in SOURCES
    } == SOURCES
    quantiles = [scrape.value("scr_capture_latency_ms", quantile=share) for share in ("0.5", "0.95", "0.99")]
    assert quantiles == sorted(quantiles)
    assert 0 < quantiles[0] < 60_000
    captures = scrape.value("scr_capture_latency_ms_count")
    assert captures == scrape.value("durable_agents_capture_latency_seconds_count") == 4, "a batch is one capture"
    assert scrape.types["scr_capture_latency_ms"] == "summary"
    assert scrape.value("scr_events_routed_total", destination="audit") == 5
    assert scrape.value("scr_events_routed_total", destination="billing") == 0
    assert scrape.value("scr_routing_failures_total", destination="audit") == 0
    assert scrape.value("scr_routing_latency_ms", destination="audit") > 0
    assert scrape.value("scr_buffer_size_bytes") == 0
    assert scrape.value("scr_buffer_utilization_percent") == 0
    assert scrape.value("scr_memory_usage_bytes") > 10_000_000
    assert scrape.value("scr_cpu_usage_percent") >= 0
    assert scrape.value("scr_events_captured_per_second") >= 0


SOURCES = {"run": 1, "gateway": 1, "api": 2, "spool": 1}


async def test_our_own_names_after_real_traffic(
    serve: Callable[..., Any], fake: FakeOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = await busy(serve, fake, tmp_path, monkeypatch)
    scrape = await settled(served)
    own = lambda name, **labels: scrape.value(f"durable_agents_{name}", **labels)  # noqa: E731 - read like a table
    assert own("runs_started_total", agent="demo") == 1
    assert own("runs_ended_total", agent="demo", status="completed") == 1
    assert own("run_duration_seconds_count", agent="demo") == 1
    assert scrape.total("durable_agents_model_calls_total", source="run", outcome="success") == 1
    assert own("model_calls_total", source="gateway", outcome="success", model="gpt-4.1-mini") == 1
    assert own("model_tokens_total", source="gateway", kind="input", model="gpt-4.1-mini") > 0
    assert own("model_cost_usd_total", source="gateway", model="gpt-4.1-mini") > 0
    assert own("gateway_calls_total", path="/chat/completions", outcome="success") == 1
    assert own("http_requests_total", method="POST", route="/api/chat", status="200") == 1
    assert own("http_requests_total", method="POST", route="/v1/chat/completions", status="200") == 1
    assert own("http_request_duration_seconds_count", route="/metrics") >= 1
    assert own("events_refused_total") == 1
    assert own("spool_put_aside_total") == 1
    assert own("database_up") == 1
    for name in ("active_runs", "event_stream_readers", "gateway_open_calls", "gateway_dropped_records_total"):
        assert own(name) == 0
    for name, audit, billing in (
        ("dead_letters", 0, 0),
        ("destination_up", 1, 0),
    ):
        assert (own(name, destination="audit"), own(name, destination="billing")) == (audit, billing), name
    # What comes while a destination rests is read when it works again.
    owed = {
        name: own("deliveries_pending", destination=name) + own("deliveries_unread", destination=name)
        for name in ("audit", "billing")
    }
    assert owed == {"audit": 0, "billing": 5}
    assert own("delivery_oldest_age_seconds", destination="audit") == 0
    assert 0 < own("delivery_oldest_age_seconds", destination="billing") < 600
    assert "hunter2" not in str(scrape.samples)


async def test_readers_and_runs_under_way_are_seen(demo: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    look_always(monkeypatch)
    chatter = await demo.session()
    async with chatter.stream("hello") as sent:
        await sent.chunk()
        scrape = await scraped(demo)
        assert scrape.value("durable_agents_event_stream_readers") == 1
        await sent.body()
    scrape = await scraped_until(demo, "durable_agents_runs_ended_total", 1)
    assert scrape.value("durable_agents_event_stream_readers") == 0
    assert scrape.value("durable_agents_active_runs") == 0


async def test_how_runs_end(serve: Callable[..., Any]) -> None:
    served = await serve(scripted(RuntimeError("broken"), says("fine")))
    for _ in range(2):
        await (await served.session()).chat("hello")
    scrape = await scraped(served)
    for status in ("failed", "completed"):
        assert scrape.value("durable_agents_runs_ended_total", agent="helper", status=status) == 1
    assert scrape.value("durable_agents_model_calls_total", model="ScriptedModel", source="run", outcome="error") == 1
    assert scrape.value("scr_events_captured_total") == 2
    assert scrape.value("durable_agents_active_runs") == 0


async def test_labels_stay_few_whatever_is_asked_for(demo: Served) -> None:
    for number in range(40):
        await demo.http.get(f"/nope/{number}")
        await demo.http.get(f"/api/runs/run_{number:032x}", headers={"X-Session-Id": f"s{number}"})
        await demo.http.request(f"VERB{number}", "/api/chat")
    scrape = await scraped(demo)
    requests = "durable_agents_http_requests_total"
    assert scrape.labels(requests, "route") <= {"unmatched", "/api/runs/{runId}", "/api/chat"}
    assert scrape.labels(requests, "method") == {"GET", "other"}
    assert scrape.total(requests) == 120


async def test_refusals_and_faults_of_ours_are_counted(serve: Callable[..., Any]) -> None:
    served = await serve()

    @served.app.get("/broken/{number}")
    async def broken(number: int) -> None:
        raise RuntimeError("of a test")

    await served.http.get("/broken/7")
    await served.http.get("/api/agents", headers={"host": "evil.example"})
    await served.http.post("/api/session", content=b"x" * 2_000_000, headers={"content-type": "application/json"})
    scrape = await scraped(served)
    for route, status, method in (
        ("/broken/{number}", "500", "GET"),
        ("unmatched", "421", "GET"),
        ("unmatched", "413", "POST"),
    ):
        name = "durable_agents_http_requests_total"
        assert scrape.value(name, route=route, status=status, method=method) == 1, route


async def test_who_may_read(demo: Served) -> None:
    assert (await demo.http.get("/metrics")).status_code == 200
    assert (await demo.http.get("/metrics", headers={"host": "evil.example"})).status_code == 421
    admin = await key_of(demo, scopes=frozenset({"admin"}))
    others = await key_of(demo, scopes=frozenset({"read", "write", "usage"}))
    assert (await demo.http.get("/metrics")).status_code == 401
    assert (await demo.http.get("/metrics", headers=bearing(others))).status_code == 403
    assert (await demo.http.get("/metrics", headers=bearing(admin))).status_code == 200


async def test_a_run_costs_a_handful_of_reports_however_long_it_is(serve: Callable[..., Any]) -> None:
    """Counted, not timed: what a run reports does not grow with what it says."""
    texts = ["short", "word " * 2_000]
    model = ScriptedModel([[assistant_message(text)] for text in texts])
    served = await serve(Agent(name="helper", model=model))
    made = []
    for _ in texts:
        chatter = await served.session()
        with counted() as counts:
            async with chatter.stream("hello") as sent:
                await sent.body()
        made.append(counts)
    assert made[0] == made[1]
    assert made[0] == Counter(run_began=1, run_left=1, run_ended=1, captured=1, answered=1)


def counted() -> Any:
    """Count the reports that are made in the block."""
    counts: Counter[str] = Counter()
    names = [name for name in vars(NoMetrics) if not name.startswith("_")]

    def counting(name: str) -> Callable[..., None]:
        def report(*_args: Any, **_kwargs: Any) -> None:
            counts[name] += 1

        return report

    class Counted:
        def __enter__(self) -> Counter[str]:
            self._patches = [patch.object(PrometheusMetrics, name, counting(name)) for name in names]
            for one in self._patches:
                one.start()
            return counts

        def __exit__(self, *_: object) -> None:
            for one in self._patches:
                one.stop()

    return Counted()


async def test_scrapes_at_once_agree(demo: Served) -> None:
    await (await demo.session()).chat("hello")
    scrapes = await asyncio.gather(*(scraped(demo) for _ in range(10)))
    assert {scrape.value("scr_events_captured_total") for scrape in scrapes} == {1}


async def test_before_anything_has_happened(demo: Served) -> None:
    scrape = await scraped(demo)
    assert scrape.value("scr_events_captured_total") == 0
    assert math.isnan(scrape.value("scr_capture_latency_ms", quantile="0.99"))
    assert scrape.value("durable_agents_capture_latency_seconds_count") == 0


async def test_a_port_of_its_own(serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configure(monkeypatch, tmp_path, monitoring={"metrics_port": port, "health_check_port": port})
    served = await serve()
    await (await served.session()).chat("hello")
    await key_of(served)
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as scraper:
        scrape = Scrape((await scraper.get("/metrics")).text)
        assert scrape.value("scr_events_captured_total") == 1
        assert (await scraper.get("/health")).json() == {"status": "ok"}
        assert (await scraper.get("/readyz")).json() == {"ready": True, "database": "ok"}
        assert (await scraper.get("/api/agents")).status_code == 404


async def test_no_port_is_opened_unless_asked(demo: Served) -> None:
    monitoring = demo.container.completions.configuration.monitoring
    assert (monitoring.metrics_port, monitoring.health_check_port) == (None, None)
