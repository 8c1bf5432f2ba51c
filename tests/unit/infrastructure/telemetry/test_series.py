"""Counters and histograms as they are written, and the bounds of what they keep."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest as text_of
from prometheus_client.registry import Collector

from app.domain.metrics_ports import NO_METRICS, NoMetrics, destination_label
from app.domain.models.usage import CallUsage, Price, TokenUsage
from app.infrastructure.telemetry.metrics import MAX_NAMES, PrometheusMetrics
from app.infrastructure.telemetry.series import Bounded, Buckets, Counts
from tests.api.monitored import Scrape


class Given(Collector):
    def __init__(self, *families: Metric) -> None:
        self._families = families

    def collect(self) -> Any:
        return self._families


def written(*families: Metric) -> Scrape:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Given(*families))
    return Scrape(generate_latest(registry).decode())


def shown(metrics: PrometheusMetrics) -> Scrape:
    return written(*metrics.families())


def call(model: str = "gpt-4.1", **fields: Any) -> CallUsage:
    values: dict[str, Any] = {
        "step": "/m1",
        "agent": "helper",
        "outcome": "success",
        "accuracy": "exact",
        "tokens": TokenUsage(1, 100, 40, 0, 20, 5),
        "started_at": datetime(2026, 11, 21, tzinfo=UTC),
        "latency_ms": 10,
        "first_token_ms": None,
    }
    return CallUsage(model=model, **values | fields)


def test_counts() -> None:
    counts = Counts("x_total", "Of a test.", ["a", "b"])
    counts.add(("1", 'quote " and \\ and \n'), 2)
    counts.add(("1", 'quote " and \\ and \n'))
    counts.add(("2", ""), 0.5)
    scrape = written(counts.family())
    assert scrape.value("x_total", a="1", b='quote " and \\ and \n') == 3
    assert scrape.value("x_total", a="2", b="") == 0.5
    assert written(Counts("y_total", "Of a test.").family()).value("y_total") == 0


@pytest.mark.parametrize("value", [0.0, 0.05, 0.1, 0.100001, 0.5, 1.0, 7.0])
def test_buckets_are_those_of_the_client_library(value: float) -> None:
    registry = CollectorRegistry()
    theirs = Histogram("x_seconds", "Of a test.", buckets=(0.1, 0.5, 1.0), registry=registry)
    ours = Buckets("x_seconds", "Of a test.", (0.1, 0.5, 1.0))
    for _ in range(3):
        theirs.observe(value)
    ours.add((), value, 3)
    expected = {
        (sample.name, sample.labels.get("le")): sample.value
        for sample in Scrape(text_of(registry).decode()).samples
        if not sample.name.endswith("_created")
    }
    told = {(sample.name, sample.labels.get("le")): sample.value for sample in written(ours.family()).samples}
    assert told == pytest.approx(expected)


def test_labels_are_bounded() -> None:
    bounded = Bounded(2)
    assert [bounded(value) for value in ("a", "b", "c", "a", "d")] == ["a", "b", "other", "a", "other"]


def test_tenants_cannot_make_names() -> None:
    metrics = PrometheusMetrics()
    for number in range(1_000):
        metrics.attempted(f"we_{number:032x}", 1, 0.01, ok=number % 2 == 0)
        metrics.dead(f"we_{number:032x}")
    scrape = shown(metrics)
    for name in ("scr_events_routed_total", "scr_routing_failures_total", "durable_agents_deliveries_dead_total"):
        assert scrape.labels(name, "destination") == {"webhook_endpoints"}
    assert scrape.value("scr_events_routed_total", destination="webhook_endpoints") == 500
    assert scrape.value("durable_agents_deliveries_dead_total", destination="webhook_endpoints") == 1_000
    assert destination_label("weather") == "weather"


def test_neither_can_models_agents_or_routes() -> None:
    metrics = PrometheusMetrics()
    for number in range(5_000):
        metrics.run_began(f"agent {number}")
        metrics.run_left([call(f"model {number}")])
        metrics.answered("GET", f"/{number}", 200, 0.1)
        metrics.attempted(f"destination {number}", 1, 0.1, ok=True)
    scrape = shown(metrics)
    assert len(scrape.labels("durable_agents_runs_started_total", "agent")) == MAX_NAMES + 1
    assert len(scrape.labels("durable_agents_model_calls_total", "model")) == MAX_NAMES + 1
    assert len(scrape.labels("scr_events_routed_total", "destination")) == MAX_NAMES + 1
    assert len(scrape.labels("durable_agents_http_requests_total", "route")) <= 3 * MAX_NAMES + 1
    assert scrape.total("durable_agents_http_requests_total") == 5_000
    assert scrape.value("durable_agents_runs_started_total", agent="other") == 4_900


def test_model_calls() -> None:
    metrics = PrometheusMetrics()
    price = Price(Decimal("0.25"), "genai-prices 2026-11-01")
    metrics.run_began("helper")
    metrics.run_left([call(price=price), call(price=price), call(outcome="error", tokens=TokenUsage(1))])
    scrape = shown(metrics)
    tokens = "durable_agents_model_tokens_total"
    for kind, count in (("input", 200), ("cached", 80), ("output", 40), ("reasoning", 10)):
        assert scrape.value(tokens, model="gpt-4.1", source="run", kind=kind) == count
    assert scrape.value("durable_agents_model_cost_usd_total", model="gpt-4.1", source="run") == 0.5
    assert scrape.value("durable_agents_model_calls_total", model="gpt-4.1", source="run", outcome="error") == 1
    assert scrape.value("durable_agents_active_runs") == 0


def test_nothing_captured_is_no_capture() -> None:
    metrics = PrometheusMetrics()
    metrics.captured("api", 0, 5.0)
    metrics.captured("api", 100, 0.02)
    scrape = shown(metrics)
    assert scrape.value("scr_events_captured_total") == 100
    assert scrape.value("scr_capture_latency_ms_count") == 1
    assert scrape.value("scr_capture_latency_ms", quantile="0.99") == 20


def test_a_destination_has_all_its_counters_from_the_first_attempt_on() -> None:
    metrics = PrometheusMetrics()
    metrics.attempted("billing", 3, 0.2, ok=False)
    scrape = shown(metrics)
    assert scrape.value("scr_routing_failures_total", destination="billing") == 3
    assert scrape.value("scr_events_routed_total", destination="billing") == 0
    assert scrape.value("durable_agents_deliveries_dead_total", destination="billing") == 0
    assert scrape.value("scr_routing_latency_ms", destination="billing") == 200


def test_metrics_that_nobody_watches_take_the_same_reports() -> None:
    reports = [name for name in vars(NoMetrics) if not name.startswith("_")]
    assert len(reports) == 9
    assert all(callable(getattr(PrometheusMetrics, name)) for name in reports)
    NO_METRICS.captured("run", 1, 0.1)
    NO_METRICS.attempted("billing", 1, 0.1, ok=True)
