"""How much at once, and how slowly: what one client may not do to all others."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from agents import function_tool

from tests.api.asgi import JSON, LOCALHOST
from tests.api.serving import Gate, Served, calls, says, scripted


def scope_of(path: str, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [LOCALHOST, JSON, *headers],
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 8000),
    }


async def test_more_requests_than_the_limit_are_told_to_come_again(serve: Callable[..., Any]) -> None:
    gate = Gate()
    script = [calls("wait_at_gate"), says("done")]
    served: Served = await serve(
        scripted(*script, tools=[function_tool(gate.wait_at_gate)]), server={"max_requests": 2}
    )
    chatter = await served.session()
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(chatter.stream()) for _ in range(2)]
        for stream in streams:
            assert await stream.head() == 200
        await gate.reached.wait()
        refused = await served.http.get("/api/agents")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error"]["code"] == "too_many_requests"
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert (await served.http.get("/healthz")).status_code == 200
        assert (await served.http.get("/readyz")).status_code == 200
        gate.open.set()
        await streams[0].body()
    assert (await served.http.get("/api/agents")).status_code == 200


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_that_does_not_come_is_cut_off(serve: Callable[..., Any], announced: bool) -> None:
    served: Served = await serve(server={"body_timeout_s": 0.05})
    parts = [{"type": "http.request", "body": b"{", "more_body": True}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return parts.pop() if parts else await asyncio.Future[dict[str, Any]]()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    length = (b"content-length", b"2") if announced else (b"transfer-encoding", b"chunked")
    await asyncio.wait_for(served.app(scope_of("/api/session", length), receive, send), 5)
    start, body = sent
    assert start["status"] == 408
    headers = dict(start["headers"])
    assert headers[b"connection"] == b"close"
    assert b"x-request-id" in headers
    assert b'"code":"request_timeout"' in body["body"]


async def test_a_stream_that_takes_longer_than_a_body_may_is_not_cut(serve: Callable[..., Any]) -> None:
    gate = Gate()
    script = [calls("wait_at_gate"), says("done")]
    served: Served = await serve(
        scripted(*script, tools=[function_tool(gate.wait_at_gate)]), server={"body_timeout_s": 0.05}
    )
    chatter = await served.session()
    async with chatter.stream() as stream:
        await stream.frames_until("tool.started")
        asyncio.get_running_loop().call_later(0.1, gate.open.set)
        frames = await stream.frames_until("run.completed")
    assert frames[-1].event == "run.completed"
