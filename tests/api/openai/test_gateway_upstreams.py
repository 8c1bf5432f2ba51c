"""Upstreams that the fake is not: compressed, endless, rude; and what happens when this process or its disk goes."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.domain.errors import StorageUnavailable
from app.infrastructure.persistence.gateway_calls import SqlGatewayCallStore
from tests.api.asgi import JSON, LOCALHOST
from tests.api.openai.gateway_app import add_routes, body, on_a_socket, recorded, serve_gateway, url
from tests.api.openai.test_gateway import code, post
from tests.api.serving import Served
from tests.fakes.openai import FakeOpenAI

ANSWER = json.dumps({"id": "x", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 6}}).encode()
EVENT = b'data: {"choices":[{"delta":{"content":"word "}}],"usage":null}\n\n'
LAST = b'data: {"id":"x","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":6}}\n\ndata: [DONE]\n\n'


class RawUpstream:
    """Answers every request with the bytes that the test wants, then closes the connection or not."""

    def __init__(self) -> None:
        self.answer: bytes = b""
        self.endless: bytes | None = None
        self.closes = True
        self.requests: list[bytes] = []
        self.port = 0
        self.left = asyncio.Event()

    def head(self, status: str = "200 OK", kind: str = "application/json", *more: str) -> bytes:
        lines = [f"HTTP/1.1 {status}", f"content-type: {kind}", *more]
        return "\r\n".join(lines).encode() + b"\r\n\r\n"

    def whole(self, data: bytes, *more: str, kind: str = "application/json", status: str = "200 OK") -> None:
        self.answer = self.head(status, kind, f"content-length: {len(data)}", *more) + data

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            self.requests.append(head + await reader.readexactly(length))
            writer.write(self.answer)
            while self.endless is not None:
                writer.write(b"%x\r\n%s\r\n" % (len(self.endless), self.endless))
                await writer.drain()
            await writer.drain()
            if not self.closes:
                await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.left.set()
            writer.close()


@pytest.fixture
async def upstream() -> AsyncIterator[RawUpstream]:
    raw = RawUpstream()
    server = await asyncio.start_server(raw.serve, "127.0.0.1", 0)
    raw.port = server.sockets[0].getsockname()[1]
    yield raw
    server.close()
    await server.wait_closed()


@pytest.fixture
async def raw(serve: Callable[..., Any], upstream: RawUpstream) -> Callable[..., Any]:
    async def start(**gateway: Any) -> Served:
        openai = {"api_key": "sk-up", "base_url": f"http://127.0.0.1:{upstream.port}/v1/", "organization": "org-ours"}
        served: Served = await serve(openai=openai, gateway={"models": "*", "flush_ms": 0, **gateway})
        add_routes(served.app)
        return served

    return start


@pytest.mark.parametrize(
    ("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("GZIP ", gzip.compress)]
)
async def test_a_compressed_answer(
    raw: Callable[..., Any], upstream: RawUpstream, coding: str, compress: Callable[[bytes], bytes]
) -> None:
    served = await raw()
    upstream.whole(compress(ANSWER), f"content-encoding: {coding}")
    reply = await post(served, "plain chat")
    assert reply.content == ANSWER
    assert "content-encoding" not in reply.headers
    (row,) = await recorded(served)
    assert (row["accuracy"], row["input_tokens"], row["output_tokens"]) == ("exact", 5, 6)


async def test_a_coding_that_we_do_not_know(raw: Callable[..., Any], upstream: RawUpstream) -> None:
    served = await raw()
    upstream.whole(b"\x28\xb5\x2f\xfd...", "content-encoding: zstd-next")
    async with on_a_socket(served) as connect:
        client = await connect()
        await client.send(url("plain chat"), body("plain chat"))
        assert b"content-encoding: zstd-next" in await client.until(b"\r\n\r\n")
        assert await client.until(b"...") == b"\x28\xb5\x2f\xfd..."
    (row,) = await recorded(served)
    assert (row["accuracy"], row["outcome"]) == ("estimated", "success")


@pytest.mark.parametrize("data", [gzip.compress(ANSWER, mtime=0)[:-12], b"no gzip at all"])
async def test_broken_compression(raw: Callable[..., Any], upstream: RawUpstream, data: bytes) -> None:
    served = await raw()
    upstream.whole(data, "content-encoding: gzip")
    reply = await post(served, "plain chat")
    assert (reply.status_code, code(reply)) == (502, "provider_error")
    (row,) = await recorded(served)
    assert row["payload"]["outcome"]["end"] == "upstream_cut"


def vectors(megabytes: int) -> bytes:
    data = [{"index": index, "embedding": [0.123456789] * 1_000} for index in range(megabytes * 72)]
    return json.dumps({"data": data, "usage": {"prompt_tokens": 77, "total_tokens": 77}}).encode()


async def test_a_long_answer_passes_through(raw: Callable[..., Any], upstream: RawUpstream) -> None:
    served = await raw()
    data = vectors(4)
    assert len(data) > 3_000_000
    upstream.whole(data)
    reply = await post(served, "embeddings")
    assert reply.content == data
    (row,) = await recorded(served)
    assert (row["accuracy"], row["input_tokens"], row["outcome"]) == ("exact", 77, "success")


async def test_a_long_answer_that_is_cut_looks_cut(raw: Callable[..., Any], upstream: RawUpstream) -> None:
    served = await raw()
    data = vectors(4)
    upstream.answer = upstream.head("200 OK", "application/json", f"content-length: {len(data)}") + data[:3_000_000]
    async with on_a_socket(served) as connect:
        client = await connect()
        await client.send(url("embeddings"), body("embeddings"))
        seen = await client.to_the_end()
    assert seen.startswith(b"HTTP/1.1 200 OK")
    assert len(seen) > 1_000_000
    assert not seen.endswith(b"0\r\n\r\n")
    (row,) = await recorded(served)
    assert row["payload"]["outcome"]["end"] == "upstream_cut"


async def test_other_statuses(raw: Callable[..., Any], upstream: RawUpstream) -> None:
    served = await raw()
    statuses = (("307 Redirect", 502), ("402 Pay", 502), ("407 Proxy", 502), ("503 Away", 502), ("504 Late", 504))
    for calls, (status, seen) in enumerate((*statuses, ("418 Tea", 418)), start=1):
        upstream.whole(b"{}", "location: http://127.0.0.1:1/", status=status)
        reply = await post(served, "plain chat")
        assert reply.status_code == seen
        assert "location" not in reply.headers
        assert len(upstream.requests) == calls
        row = (await recorded(served, calls))[-1]
        assert (row["http_status"], row["outcome"], row["accuracy"]) == (int(status[:3]), "error", "exact")


async def test_no_answer_at_all(raw: Callable[..., Any], upstream: RawUpstream) -> None:
    served = await raw()
    answers = (b"", b"HTTP/1.1 200 OK\r\ncontent-ty", b"SSH-2.0-OpenSSH_9\r\n\r\n")
    for calls, answer in enumerate(answers, start=1):
        upstream.answer = answer
        reply = await post(served, "plain chat")
        assert (reply.status_code, code(reply)) == (502, "provider_error")
        row = (await recorded(served, calls))[-1]
        assert (row["payload"]["outcome"]["end"], row["accuracy"]) == ("upstream_cut", "estimated")
        assert len(upstream.requests) == calls


async def test_what_the_client_sees_of_the_headers(raw: Callable[..., Any], upstream: RawUpstream) -> None:
    served = await raw()
    upstream.whole(
        ANSWER,
        *("x-ratelimit-remaining-tokens: 5", "OpenAI-Processing-Ms: 3", "openai-organization: org-ours"),
        *("set-cookie: a=b", "server: cloudflare", "x-request-id: req_up", "Retry-After: 3"),
    )
    reply = await post(served, "plain chat")
    assert reply.headers["x-ratelimit-remaining-tokens"] == "5"
    assert reply.headers["openai-processing-ms"] == "3"
    assert reply.headers["retry-after"] == "3"
    assert reply.headers["x-upstream-request-id"] == "req_up"
    assert not reply.headers.keys() & {"openai-organization", "set-cookie", "server"}
    assert len(reply.headers.get_list("x-request-id")) == 1
    (sent,) = upstream.requests
    assert b"authorization: bearer sk-up" in sent
    assert b"openai-organization: org-ours" in sent


async def test_a_large_body(raw: Callable[..., Any], upstream: RawUpstream) -> None:
    served = await raw()
    upstream.whole(ANSWER)
    sent = body("plain chat", user="x" * 1_060_000)
    assert (await post(served, "plain chat", sent)).status_code == 200
    assert upstream.requests[0].endswith(sent)


async def test_a_base_url_with_a_query_and_a_user(serve: Callable[..., Any], upstream: RawUpstream) -> None:
    base_url = f"http://me:secret@127.0.0.1:{upstream.port}/openai/v1/?api-version=2"
    served = await serve(openai={"api_key": "sk-up", "base_url": base_url}, gateway={"models": "*", "flush_ms": 0})
    add_routes(served.app)
    upstream.whole(ANSWER)
    assert (await post(served, "plain chat")).status_code == 200
    assert upstream.requests[0].startswith(b"post /openai/v1/chat/completions?api-version=2 http/1.1\r\n")
    assert b"authorization: basic " in upstream.requests[0]


@asynccontextmanager
async def endless(served: Served, upstream: RawUpstream) -> AsyncIterator[Any]:
    upstream.answer = upstream.head("200 OK", "text/event-stream", "transfer-encoding: chunked")
    upstream.endless = EVENT * 200
    async with on_a_socket(served) as connect:
        client = await connect()
        await client.send(url("streamed chat"), body("streamed chat"))
        await client.until(b"word")
        yield client


async def test_a_client_that_stops_reading(raw: Callable[..., Any], upstream: RawUpstream) -> None:
    served = await raw(chunk_timeout_s=0.3)
    async with endless(served, upstream):
        await asyncio.wait_for(upstream.left.wait(), 10)
        (row,) = await recorded(served)
    assert (row["outcome"], row["payload"]["outcome"]["end"]) == ("cancelled", "client_gone")
    assert row["accuracy"] == "estimated"
    assert row["output_tokens"] > 1_000


async def test_a_stream_that_takes_too_long_in_all(raw: Callable[..., Any], upstream: RawUpstream) -> None:
    served = await raw(timeout_s=0.3)
    async with endless(served, upstream) as client:
        seen = await client.to_the_end()
        assert not seen.endswith(b"0\r\n\r\n")
        (row,) = await recorded(served)
    assert (row["outcome"], row["payload"]["outcome"]["end"]) == ("timeout", "upstream_timeout")


async def test_a_stream_without_its_last_event(raw: Callable[..., Any], upstream: RawUpstream) -> None:
    """HTTP says that it is whole, the stream does not: the client must not take it for a whole answer."""
    served = await raw()
    upstream.whole(EVENT * 3, kind="text/event-stream")
    async with on_a_socket(served) as connect:
        client = await connect()
        await client.send(url("streamed chat"), body("streamed chat"))
        seen = await client.to_the_end()
    assert seen.count(b"word") == 3
    assert not seen.endswith(b"0\r\n\r\n")
    (row,) = await recorded(served)
    assert (row["payload"]["outcome"]["end"], row["output_tokens"]) == ("upstream_cut", 4)


async def test_the_process_stops(raw: Callable[..., Any], upstream: RawUpstream) -> None:
    """A server that stops cancels what is open; the call is recorded before the database is closed."""
    served = await raw()
    upstream.answer = upstream.head("200 OK", "text/event-stream", "transfer-encoding: chunked")
    upstream.closes = False
    sent = body("streamed chat")
    messages: asyncio.Queue[Any] = asyncio.Queue()
    given = False

    async def receive() -> dict[str, Any]:
        nonlocal given
        if given:
            await asyncio.Event().wait()
        given = True
        return {"type": "http.request", "body": sent, "more_body": False}

    path = url("streamed chat")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [LOCALHOST, JSON, (b"content-length", str(len(sent)).encode())],
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }
    serving = asyncio.create_task(served.app(scope, receive, messages.put))
    assert (await asyncio.wait_for(messages.get(), 10))["status"] == 200
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    (row,) = await recorded(served)
    assert (row["outcome"], row["payload"]["outcome"]["end"]) == ("cancelled", "client_gone")
    await asyncio.wait_for(upstream.left.wait(), 10)


class TestTheDatabaseIsAway:
    @pytest.fixture
    def away(self, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
        """While this holds True, nothing can be written."""
        state = [True]
        write = SqlGatewayCallStore.record

        async def record(self: Any, calls: Any, *, again: bool = False) -> None:
            if state[0]:
                raise StorageUnavailable("away")
            await write(self, calls, again=again)

        monkeypatch.setattr(SqlGatewayCallStore, "record", record)
        return state

    async def test_replies_do_not_wait(self, serve: Callable[..., Any], fake: FakeOpenAI, away: list[bool]) -> None:
        served = await serve_gateway(serve, fake)
        for _ in range(3):
            assert (await post(served, "streamed chat")).status_code == 200
        assert served.rows("SELECT * FROM agent_run_usage") == []
        away[0] = False
        await recorded(served, 3)

    async def test_before_the_reply(
        self, serve: Callable[..., Any], fake: FakeOpenAI, away: list[bool], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        served = await serve_gateway(serve, fake, record="before_reply")
        recorder = served.container.gateway._recorder
        monkeypatch.setattr(recorder, "_limits", type(recorder._limits)("before_reply", patience_s=0.1))
        reply = await post(served, "plain chat")
        assert (reply.status_code, code(reply)) == (503, "storage_unavailable")
        async with on_a_socket(served) as connect:
            client = await connect()
            await client.send(url("streamed chat"), body("streamed chat"))
            seen = await client.to_the_end()
        assert b"[DONE]" not in seen
        assert not seen.endswith(b"0\r\n\r\n")
        away[0] = False
        await recorded(served, 2)
