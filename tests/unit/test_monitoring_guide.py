"""The guide to monitoring says what is so, and names tests that exist."""

import ast
import re
from pathlib import Path

import pytest

from app.infrastructure.telemetry.metrics import PrometheusMetrics
from app.infrastructure.telemetry.monitoring import SystemMonitoring
from tests.unit.infrastructure.telemetry.backlogs import Known

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "monitoring.md").read_text()
PLAN = re.findall(r"^\| (.+?) \| .+ \| `(tests/[^`]+)` \|$", GUIDE, re.MULTILINE)
NAMES = [
    *(f"scr_events_captured_{what}" for what in ("total", "per_second")),
    "scr_capture_latency_ms{quantile}",
    *(f"scr_{what}{{destination}}" for what in ("events_routed_total", "routing_failures_total", "routing_latency_ms")),
    *("scr_buffer_size_bytes", "scr_buffer_utilization_percent", "scr_memory_usage_bytes", "scr_cpu_usage_percent"),
    *("SCRHighLatency", "SCRRoutingFailures", "SCRServiceDown"),
    *("timestamp", "level", "component", "message", "event_id", "session_id", "latency_ms"),
    *("/metrics", "/health"),
    *(f"SCR_{name}" for name in ("API_KEY", "ENDPOINT", "TIMEOUT_MS", "ENABLED", "BATCH_SIZE", "FLUSH_INTERVAL_MS")),
    *("SCR_ASYNC_ROUTING", "VITE_SCR_API_KEY", "VITE_SCR_ENDPOINT"),
    *(f"capture.{name}" for name in ("enabled", "batch_size", "flush_interval_ms", "buffer_max_size")),
    *(f"destinations[].{name}" for name in ("name", "transform", "retry_attempts", "timeout_ms", "sampling_rate")),
    *("endpoint", "destinations[].retention_days"),
    *(f"monitoring.{name}" for name in ("metrics_port", "health_check_port", "log_level")),
    *("scaling.replicas", "scaling.partitioning_key", "optimization.async_mode", "optimization.compression"),
]


def families() -> set[str]:
    monitoring = SystemMonitoring(PrometheusMetrics(), Known())
    return {f"{one.name}_total" if one.type == "counter" else one.name for one in monitoring.families()}


@pytest.mark.parametrize("name", NAMES)
def test_everything_of_the_plan_is_in_the_table(name: str) -> None:
    assert [row for row, _ in PLAN if f"`{name}`" in row], name


@pytest.mark.parametrize("test", sorted({test for _, test in PLAN}))
def test_the_tests_of_the_table_exist(test: str) -> None:
    file, _, name = test.partition("::")
    tree = ast.parse((ROOT / file).read_text())
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert name in functions


async def test_every_metric_is_in_the_guide_and_nothing_else() -> None:
    ours = {name.removeprefix("durable_agents_") for name in families() if name.startswith("durable_agents_")}
    table = GUIDE.partition("## All others of ours")[2]
    named = {name for cell in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for name in _names(cell)}
    assert named == ours
    plans = {name for name in families() if name.startswith("scr_")}
    assert plans == {row.strip("`").partition("{")[0] for row, _ in PLAN if "scr_" in row}


def _names(cell: str) -> list[str]:
    return [name for name in re.findall(r"`([a-z_]+)(?:\{[a-z,]+\})?`", cell) if name != "destination"]
