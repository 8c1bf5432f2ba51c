"""The metrics of a process: what services report, as Prometheus' families.

The ten names that begin with `scr_` are those of the original plan for completion capture, word for word; all others
begin with `durable_agents_`. The client library cannot make native histograms, so quantiles are there twice: exactly,
of the latest values of this process, under the plan's name; and as classic buckets, which can be summed over processes.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client.core import Metric, SummaryMetricFamily

from app.domain.metrics_ports import CaptureSource, destination_label
from app.domain.models.gateway import GatewayCall
from app.domain.models.runs import RunResult
from app.domain.models.usage import CallUsage
from app.infrastructure.telemetry.recent import RecentQuantiles, RecentRate
from app.infrastructure.telemetry.series import Bounded, Buckets, Counts

QUANTILES: Final = (0.5, 0.95, 0.99)
MAX_NAMES: Final = 100
"""Agents, models, destinations and routes that are told apart; all later ones are `other`."""
_ROUTING_KEPT: Final = 512
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# 50 ms is the plan's limit for a capture: a bucket must end there, or the alert could not tell.
_CAPTURE_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
_ROUTING_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_RUN_S: Final = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_HTTP_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0)


class PrometheusMetrics:
    """Metrics of one process; call all but `families` in the event loop's thread."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.active_runs = 0
        self._agent = Bounded(MAX_NAMES)
        self._model = Bounded(MAX_NAMES)
        self._destination = Bounded(MAX_NAMES)
        self._route = Bounded(3 * MAX_NAMES)
        self._begun = Counts("durable_agents_runs_started_total", "Executions of runs begun here.", ["agent"])
        self._ended = Counts(
            "durable_agents_runs_ended_total",
            "Executions of runs recorded here, by how they ended; waiting: for a person.",
            ["agent", "status"],
        )
        self._run_s = Buckets(
            "durable_agents_run_duration_seconds", "Of execution, without the time in the queue.", _RUN_S, ["agent"]
        )
        call = ["model", "source"]
        self._calls = Counts("durable_agents_model_calls_total", "Model calls, by how they ended.", [*call, "outcome"])
        self._tokens = Counts(
            "durable_agents_model_tokens_total",
            "Tokens; cached ones are part of input, reasoning ones of output.",
            [*call, "kind"],
        )
        self._cost = Counts("durable_agents_model_cost_usd_total", "Cost of calls whose price is known.", call)
        self._gateway = Counts(
            "durable_agents_gateway_calls_total", "Recorded calls through the gateway.", ["path", "outcome"]
        )
        self._captured = Counts("scr_events_captured_total", "Completion events that are in the outbox.")
        self._sources = Counts("durable_agents_events_captured_total", "The same, by where they came from.", ["source"])
        self._refused = Counts("durable_agents_events_refused_total", "Events from outside that are wrong.")
        self._rate = RecentRate()
        self._capture_ms = RecentQuantiles()
        self._capture_s = Buckets(
            "durable_agents_capture_latency_seconds", "From the offer of an event to the outbox.", _CAPTURE_S
        )
        self._captures, self._capture_sum_ms = 0, 0.0
        to = ["destination"]
        self._routed = Counts("scr_events_routed_total", "Events that a destination has taken.", to)
        self._failures = Counts(
            "scr_routing_failures_total", "Attempts that failed, counted for each event in them.", to
        )
        self._dead = Counts("durable_agents_deliveries_dead_total", "Events that became dead letters here.", to)
        self._routing_ms: dict[str, RecentQuantiles] = {}
        self._routing_s = Buckets("durable_agents_routing_latency_seconds", "Of one attempt.", _ROUTING_S, to)
        self._requests = Counts("durable_agents_http_requests_total", "Answers.", ["method", "route", "status"])
        self._request_s = Buckets(
            "durable_agents_http_request_duration_seconds", "To the end of the answer.", _HTTP_S, ["route"]
        )

    def run_began(self, agent: str) -> None:
        """Note that this process executes a run; see the port."""
        self.active_runs += 1
        self._begun.add((self._agent(agent),))

    def run_left(self, calls: Sequence[CallUsage]) -> None:
        """Note that it does no longer; see the port."""
        self.active_runs -= 1
        for call in calls:
            self._add_call(call, "run")

    def run_ended(self, result: RunResult) -> None:
        """Note the end of a run; see the port."""
        agent = self._agent(result.agent)
        self._ended.add((agent, result.status.value))
        if result.status.value != "waiting":
            self._run_s.add((agent,), result.timings.duration_ms / 1000)

    def gateway_called(self, calls: Sequence[GatewayCall]) -> None:
        """Note recorded calls; see the port."""
        for call in calls:
            self._gateway.add((call.path, call.end))
            self._add_call(call.usage, "gateway")

    def captured(self, source: CaptureSource, events: int, latency_s: float) -> None:
        """Note events in the outbox; see the port."""
        if not events:
            return
        self._captured.add((), events)
        self._sources.add((source,), events)
        self._rate.add(events)
        self._capture_ms.add(latency_s * 1000)
        self._capture_s.add((), latency_s)
        self._captures += 1
        self._capture_sum_ms += latency_s * 1000

    def refused(self, events: int) -> None:
        """Note events that are wrong; see the port."""
        self._refused.add((), events)

    def attempted(self, destination: str, events: int, latency_s: float, *, ok: bool) -> None:
        """Note an attempt; see the port."""
        name = self._destination(destination_label(destination))
        (self._routed if ok else self._failures).add((name,), events)
        # The others are there from the first attempt on: a rate needs a value to begin with.
        (self._failures if ok else self._routed).add((name,), 0)
        self._dead.add((name,), 0)
        self._routing_s.add((name,), latency_s)
        recent = self._routing_ms.get(name)
        if recent is None:
            recent = self._routing_ms[name] = RecentQuantiles(_ROUTING_KEPT)
        recent.add(latency_s * 1000)

    def dead(self, destination: str) -> None:
        """Note a dead letter; see the port."""
        self._dead.add((self._destination(destination_label(destination)),))

    def answered(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Note an answer; see the port."""
        route = self._route(route)
        self._requests.add((method if method in _METHODS else "other", route, str(status)))
        self._request_s.add((route,), duration_s)

    def families(self) -> Iterator[Metric]:
        """Yield everything; any thread may ask."""
        for counts in (
            *(self._begun, self._ended, self._calls, self._tokens, self._cost, self._gateway),
            *(self._captured, self._sources, self._refused, self._routed, self._failures, self._dead, self._requests),
        ):
            yield counts.family()
        for buckets in (self._run_s, self._capture_s, self._routing_s, self._request_s):
            yield buckets.family()
        yield gauge("durable_agents_active_runs", "Runs that this process executes.", self.active_runs)
        yield gauge("scr_events_captured_per_second", "Mean of the last 10 full seconds.", self._rate.per_second())
        yield self._capture_quantiles()
        routing = Metric("scr_routing_latency_ms", "Median of the latest 512 attempts of this process.", "gauge")
        for name, recent in list(self._routing_ms.items()):
            routing.add_sample(routing.name, {"destination": name}, recent.quantiles([0.5])[0])
        yield routing

    def _capture_quantiles(self) -> Metric:
        family = SummaryMetricFamily(
            "scr_capture_latency_ms", "Quantiles of the latest 2,048 captures of this process.", labels=()
        )
        values = self._capture_ms.quantiles(QUANTILES)
        for quantile, value in zip(QUANTILES, values, strict=True):
            family.add_sample(family.name, {"quantile": str(quantile)}, value)
        family.add_metric([], self._captures, self._capture_sum_ms)
        return family

    def _add_call(self, usage: CallUsage, source: str) -> None:
        model = self._model(usage.model)
        tokens = usage.tokens
        self._calls.add((model, source, usage.outcome))
        for kind, count in (
            ("input", tokens.input_tokens),
            ("cached", tokens.cached_tokens),
            ("output", tokens.output_tokens),
            ("reasoning", tokens.reasoning_tokens),
        ):
            self._tokens.add((model, source, kind), count)
        if usage.price is not None:
            self._cost.add((model, source), float(usage.price.cost_usd))


def gauge(name: str, meaning: str, value: float) -> Metric:
    """Return a family of one value."""
    family = Metric(name, meaning, "gauge")
    family.add_sample(name, {}, value)
    return family
