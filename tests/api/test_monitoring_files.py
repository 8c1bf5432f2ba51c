"""The rules and the dashboard name what is there: every metric, label and bucket of theirs is in a real scrape."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.api.monitored import Scrape
from tests.api.test_metrics import busy, settled
from tests.fakes.openai import FakeOpenAI

FOLDER = Path(__file__).parents[2] / "docs" / "monitoring"
RULES = FOLDER / "prometheus-alerts.yaml"
DASHBOARD = FOLDER / "grafana-dashboard.json"
THEIRS = {"up"}
"""What Prometheus itself makes."""
WORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "bool", "offset"}
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"


def rules() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    names = [rule["alert"] for rule in found]
    assert len(set(names)) == len(names)
    return dict(zip(names, found, strict=True))


def expressions() -> Iterator[str]:
    for rule in rules().values():
        yield rule["expr"]
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def named(expression: str) -> dict[str, set[str]]:
    """The metrics of an expression, each with the labels that are asked of it."""
    assert expression.count("(") == expression.count(")")
    assert expression.count("{") == expression.count("}")
    found: dict[str, set[str]] = {}
    bare = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", "", expression)
    for match in re.finditer(rf"({NAME})\s*({{[^}}]*}})?(\s*\()?", re.sub(r"\[[^\]]*\]", "", bare)):
        name, selector, call = match.groups()
        if call is None and name not in WORDS and not re.fullmatch(r"[eE]\d+", name):
            found.setdefault(name, set()).update(re.findall(rf"({NAME})\s*[=!~]+", selector or ""))
    assert found, expression
    return found


def grouped(expression: str) -> set[str]:
    return {label.strip() for labels in re.findall(r"\bby\s*\(([^)]*)\)", expression) for label in labels.split(",")}


def test_expressions_are_taken_apart() -> None:
    expression = (
        'sum by (le, job) (rate(a_bucket{x="1",y=~"b|c"}[5m])) / on (job) b_total > 0.05 or absent(up{job="z"})'
    )
    assert named(expression) == {"a_bucket": {"x", "y"}, "b_total": set(), "up": {"job"}}
    assert grouped(expression) == {"le", "job"}


@pytest.fixture
async def scrape(
    serve: Callable[..., Any], fake: FakeOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Scrape:
    return await settled(await busy(serve, fake, tmp_path, monkeypatch))


async def test_every_metric_that_is_asked_for_is_exposed(scrape: Scrape) -> None:
    own = {"instance", "job"}
    for expression in expressions():
        for name, labels in named(expression).items():
            if name in THEIRS:
                continue
            assert name in scrape.names, expression
            have = [sample.labels.keys() for sample in scrape.samples if sample.name == name]
            for label in (labels | grouped(expression)) - own:
                assert any(label in keys for keys in have), (label, expression)
            for label, value in re.findall(rf'\b({NAME})="([^"]*)"', expression):
                if label == "quantile":
                    assert value in scrape.labels(name, label)


async def test_every_metric_of_ours_is_on_the_dashboard_or_in_a_rule(scrape: Scrape) -> None:
    asked = {name for expression in expressions() for name in named(expression)}
    ours = {name for name in scrape.types if name.startswith(("scr_", "durable_agents_"))}
    assert len(ours) > 35
    for name in ours:
        assert asked & {name, f"{name}_total", f"{name}_bucket"}, name


async def test_the_limit_of_the_latency_rule_is_the_end_of_a_bucket(scrape: Scrape) -> None:
    (limit,) = re.findall(r"> ([0-9.]+)$", rules()["SCRHighLatency"]["expr"])
    assert float(limit) == 0.05
    assert limit in scrape.labels("durable_agents_capture_latency_seconds_bucket", "le")


@pytest.mark.parametrize(
    ("alert", "wait"), [("SCRHighLatency", "5m"), ("SCRRoutingFailures", "2m"), ("SCRServiceDown", "1m")]
)
def test_the_plans_three_rules(alert: str, wait: str) -> None:
    rule = rules()[alert]
    assert rule["for"] == wait
    assert len(rule["annotations"]["summary"]) > 10


def test_every_rule_says_what_it_means() -> None:
    for name, rule in rules().items():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, name
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"]


def test_failures_are_a_share_of_all_attempts() -> None:
    expression = re.sub(r"\s+", " ", rules()["SCRRoutingFailures"]["expr"])
    over, under = expression.split(" / ")
    assert over == "sum by (destination) (rate(scr_routing_failures_total[5m]))"
    assert named(under) == {"scr_events_routed_total": set(), "scr_routing_failures_total": set()}
    assert under.endswith("> 0.01")


def test_the_dashboard_can_be_loaded() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 10
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels), "no panel lies on another"
    (source,) = [one["name"] for one in dashboard["templating"]["list"] if one["type"] == "datasource"]
    for panel in panels:
        assert panel["datasource"] == {"type": "prometheus", "uid": f"${{{source}}}"}
        assert panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"])


def test_promtool_agrees_where_there_is_one() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:  # then the tests above are what there is
        assert all(named(expression) for expression in expressions())
        return
    done = subprocess.run([promtool, "check", "rules", str(RULES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
