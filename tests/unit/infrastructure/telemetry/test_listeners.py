"""Ports of their own, asked over real sockets."""

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from app.domain.errors import ConfigurationError
from app.infrastructure.telemetry.listeners import HEALTH_PATHS, Ports, open_listeners
from app.infrastructure.telemetry.metrics import PrometheusMetrics
from app.infrastructure.telemetry.monitoring import SystemMonitoring
from tests.unit.infrastructure.telemetry.backlogs import Known

HOST = "127.0.0.1"


@dataclass
class State:
    ready: bool = True
    database: str = "ok"


class System:
    """What the ports show."""

    def __init__(self) -> None:
        self.state = State()
        self.monitoring = SystemMonitoring(PrometheusMetrics(), Known())

    async def ready(self) -> State:
        return self.state

    def open(self, **ports: Any) -> Any:
        return open_listeners(self.monitoring, self.ready, Ports(HOST, **ports))


async def asked(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as client,
        client.request(method, f"http://{HOST}:{port}{path}", headers=headers) as reply,
    ):
        return reply.status, await reply.text()


@pytest.fixture
def free_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        port = taken.getsockname()[1]
    yield port


async def test_nothing_listens_unless_asked() -> None:
    async with System().open() as ports:
        assert ports == {}


async def test_metrics_alone() -> None:
    async with System().open(metrics=0) as ports:
        assert list(ports) == ["/metrics"]
        status, text = await asked(ports["/metrics"], "/metrics")
        assert (status, "scr_events_captured_total 0.0" in text) == (200, True)
        for path in ("/", "/health", "/api/agents", "/metrics/"):
            assert (await asked(ports["/metrics"], path))[0] == 404
        assert (await asked(ports["/metrics"], "/metrics", "POST"))[0] == 405


async def test_health_alone() -> None:
    system = System()
    async with system.open(health=0) as ports:
        assert tuple(ports) == HEALTH_PATHS
        port = ports["/health"]
        for path in ("/health", "/healthz"):
            assert await asked(port, path) == (200, '{"status": "ok"}')
        assert await asked(port, "/readyz?verbose") == (200, '{"ready": true, "database": "ok"}')
        system.state = State(ready=False, database="unavailable")
        assert await asked(port, "/readyz") == (503, '{"ready": false, "database": "unavailable"}')
        assert (await asked(port, "/health"))[0] == 200
        assert (await asked(port, "/metrics"))[0] == 404


async def test_one_port_for_both(free_port: int) -> None:
    async with System().open(metrics=free_port, health=free_port) as ports:
        assert set(ports.values()) == {free_port}
        assert [(await asked(free_port, path))[0] for path in ("/metrics", *HEALTH_PATHS)] == [200] * 4


async def test_two_free_ports_are_two() -> None:
    async with System().open(metrics=0, health=0) as ports:
        assert ports["/metrics"] != ports["/health"]


async def test_a_stranger_that_points_its_name_here_is_refused() -> None:
    async with System().open(metrics=0) as ports:
        assert (await asked(ports["/metrics"], "/metrics", Host="evil.example"))[0] == 421
        assert (await asked(ports["/metrics"], "/metrics", Host="localhost:1"))[0] == 200


async def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        for name, key in (("metrics", "metrics_port"), ("health", "health_check_port")):
            with pytest.raises(ConfigurationError, match=rf"monitoring.{key}: cannot listen on {HOST}:{port}"):
                async with System().open(**{name: port}):
                    pytest.fail("it listened")


async def test_ports_are_free_again_afterwards(free_port: int) -> None:
    for _ in range(2):
        async with System().open(metrics=free_port):
            assert (await asked(free_port, "/metrics"))[0] == 200
    with pytest.raises(aiohttp.ClientConnectionError):
        await asked(free_port, "/metrics")


async def test_a_scrape_that_is_cut_off_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    async with System().open(metrics=0) as ports:
        _, writer = await asyncio.open_connection(HOST, ports["/metrics"])
        writer.write(b"GET /metrics HTTP/1.1\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    left = {task for task in asyncio.all_tasks() - before if not task.done()} - {asyncio.current_task()}
    assert left == set()
