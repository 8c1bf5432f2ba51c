"""Clients that never finish the head of a request, over real sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from app.cli.connections import MAX_HEAD_BYTES, connections

HEAD_S = 0.2
GET = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n"


class App:
    """Answers with the body, as soon as the test lets it."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.asked = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.set()
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        await self.go_on.wait()
        headers = [(b"content-length", str(len(body) + 2).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok" + body})


@asynccontextmanager
async def served(app: App) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Serve an application on a port of its own, and connect to it."""
    made: Any = connections(HEAD_S)
    config = uvicorn.Config(app, port=0, http=made, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    port = server.servers[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(20):
            yield reader, writer
    finally:
        writer.close()
        app.go_on.set()
        await server.shutdown()


async def answer(reader: asyncio.StreamReader) -> bytes:
    """Read one whole reply to a GET."""
    return await reader.readuntil(b"\r\n\r\nok")


async def dripped(writer: asyncio.StreamWriter, reader: asyncio.StreamReader, text: bytes) -> bytes:
    """Send byte by byte, always soon enough for any limit between two bytes, and return the reply to it."""
    reply = asyncio.ensure_future(reader.readuntil(b"}}"))
    for byte in text:
        if reply.done() or writer.is_closing():
            break
        writer.write(bytes([byte]))
        await asyncio.wait((reply,), timeout=HEAD_S / 10)
    return await reply


async def test_headers_byte_by_byte_are_cut_off() -> None:
    app = App()
    async with served(app) as (reader, writer):
        began = asyncio.get_running_loop().time()
        told = await dripped(writer, reader, b"GET / HTTP/1.1\r\nx-slow: " + b"a" * 10_000)
        took_s = asyncio.get_running_loop().time() - began
    assert told.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in told
    assert HEAD_S * 0.9 < took_s < 10
    assert not app.asked.is_set()


async def test_a_client_that_says_nothing_is_left() -> None:
    async with served(App()) as (reader, _):
        assert await reader.read() == b""


async def test_a_later_request_has_its_time_as_well() -> None:
    async with served(App()) as (reader, writer):
        writer.write(GET)
        await answer(reader)
        told = await dripped(writer, reader, b"GET / HTTP/1.1\r\nx-slow: " + b"a" * 10_000)
    assert told.startswith(b"HTTP/1.1 408 ")


async def test_a_connection_that_is_used_in_time_stays() -> None:
    async with served(App()) as (reader, writer):
        for _ in range(4):
            writer.write(GET)
            await answer(reader)
            await asyncio.sleep(HEAD_S / 2)  # idle: this limit is for heads only
        writer.write(b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 4\r\n\r\nab")
        await asyncio.sleep(HEAD_S * 2)  # a body has its own limit
        writer.write(b"cd")
        assert (await answer(reader)).startswith(b"HTTP/1.1 200 ")
        assert await reader.readexactly(4) == b"abcd"


async def test_a_reply_is_not_cut_by_half_a_request_behind_it() -> None:
    app = App()
    app.go_on.clear()
    async with served(app) as (reader, writer):
        writer.write(GET)
        await app.asked.wait()
        writer.write(b"GET / HT")
        await asyncio.sleep(HEAD_S * 2)
        app.go_on.set()
        assert (await answer(reader)).startswith(b"HTTP/1.1 200 ")
        assert b" 408 " in await reader.readuntil(b"}}")


@pytest.mark.parametrize("size", [MAX_HEAD_BYTES // 2, MAX_HEAD_BYTES * 4])
async def test_a_head_has_a_size(size: int) -> None:
    async with served(App()) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nx-large: " + b"a" * size)
        if size < MAX_HEAD_BYTES:
            writer.write(b"\r\n\r\n")
            assert (await answer(reader)).startswith(b"HTTP/1.1 200 ")
        else:
            assert (await reader.readline()).startswith(b"HTTP/1.1 431 ")
