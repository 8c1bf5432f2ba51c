"""`python -m benchmarks.pass_through_server PORT UPSTREAM FILE`: the least that passes calls on and records them.

aiohttp on both sides, one key, no limits, one row a call in SQLite; it trusts everything. It imports nothing of ours.
"""

import asyncio
import json
import sqlite3
import sys
import time

import aiohttp
import uvloop
from aiohttp import web

KEY = "Bearer sk-bench"


class PassThrough:
    """The server's state."""

    def __init__(self, upstream: str, file: str) -> None:
        self._upstream = upstream
        self._rows = sqlite3.connect(file, isolation_level=None)
        self._rows.execute("PRAGMA journal_mode = WAL")
        self._rows.execute("PRAGMA synchronous = NORMAL")
        self._rows.execute(
            "CREATE TABLE calls (model TEXT, status INT, input INT, output INT, started REAL, seconds REAL)"
        )
        self._session = aiohttp.ClientSession(auto_decompress=False)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Pass a chat on."""
        if request.headers.get("Authorization") != KEY:
            raise web.HTTPUnauthorized
        started = time.time()
        body = await request.read()
        asked = json.loads(body)
        headers = {"Authorization": "Bearer none", "Content-Type": "application/json"}
        async with self._session.post(f"{self._upstream}/chat/completions", data=body, headers=headers) as answer:
            if not asked.get("stream"):
                data = await answer.read()
                self._record(asked, answer.status, json.loads(data)["usage"], started)
                return web.Response(body=data, status=answer.status, content_type="application/json")
            reply = web.StreamResponse(status=answer.status, headers={"Content-Type": "text/event-stream"})
            await reply.prepare(request)
            usage: dict[str, int] = {}
            async for chunk in answer.content.iter_any():
                if b'"prompt_tokens"' in chunk:
                    line = next(line for line in chunk.split(b"\n\n") if b'"prompt_tokens"' in line)
                    usage = json.loads(line[6:])["usage"]
                await reply.write(chunk)
            self._record(asked, answer.status, usage, started)
            await reply.write_eof()
            return reply

    def _record(self, asked: dict[str, str], status: int, usage: dict[str, int], started: float) -> None:
        row = (
            asked["model"],
            status,
            usage["prompt_tokens"],
            usage["completion_tokens"],
            started,
            time.time() - started,
        )
        self._rows.execute("INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?)", row)


async def _main() -> None:
    server = PassThrough(sys.argv[2], sys.argv[3])
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.chat)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=600)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1])).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_main())
