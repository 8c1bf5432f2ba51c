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
