"""A served application under real traffic, and its metrics as a scraper reads them."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from app.infrastructure.telemetry import monitoring
from tests.api.serving import Served

WAIT_S = 10.0
POLL_S = 0.02


class Scrape:
    """What one look at `/metrics` has told."""

    def __init__(self, text: str) -> None:
        families = list(text_string_to_metric_families(text))
        self.types = {family.name: family.type for family in families}
        self.samples: list[Sample] = [sample for family in families for sample in family.samples]
        self.names = {sample.name for sample in self.samples}
        for family in families:
            assert family.documentation, family.name

    def value(self, name: str, **labels: str) -> float:
        """The one value with these labels, and no others."""
        (found,) = [sample.value for sample in self.samples if sample.name == name and sample.labels == labels]
        return found

    def total(self, name: str, **labels: str) -> float:
        """The sum of all values that have these labels."""
        return sum(
            sample.value for sample in self.samples if sample.name == name and labels.items() <= sample.labels.items()
        )

    def labels(self, name: str, label: str) -> set[str]:
        """The values of one label."""
        return {sample.labels[label] for sample in self.samples if sample.name == name}


async def scraped(served: Served, headers: Mapping[str, str] | None = None) -> Scrape:
    reply = await served.http.get("/metrics", headers=headers)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Scrape(reply.text)


async def scraped_until(served: Served, name: str, least: float, **labels: str) -> Scrape:
    """Scrape until a metric has reached a value."""
    async with asyncio.timeout(WAIT_S):
        while (scrape := await scraped(served)).total(name, **labels) < least:
            await asyncio.sleep(POLL_S)
    return scrape


def look_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every scrape look into the database."""
    monkeypatch.setattr(monitoring, "LOOK_EVERY_S", 0.0)


def configure(monkeypatch: pytest.MonkeyPatch, folder: Path, *destinations: dict[str, Any], **more: Any) -> None:
    """Name a file with destinations in the environment; JSON is YAML."""
    section = {"destinations": list(destinations), **more}
    file = folder / "capture.yaml"
    file.write_text(json.dumps({"session_completion_runtime": section}))
    monkeypatch.setenv("SCR_CONFIG", str(file))
    monkeypatch.setenv("SCR_SPOOL_DIR", str(folder / "spool"))


def good(folder: Path, name: str = "audit") -> dict[str, Any]:
    """A destination that takes everything."""
    return {"name": name, "kind": "jsonl", "endpoint": str(folder / f"{name}.jsonl")}


def bad(name: str = "billing") -> dict[str, Any]:
    """A destination that nobody listens at, with a secret in its address."""
    return {"name": name, "kind": "http", "endpoint": "http://user:hunter2@127.0.0.1:1/events", "timeout_ms": 500}
