"""`python -m benchmarks.broken_server PORT`: a destination that answers 500, never, or 200; by its path."""

import asyncio
import sys

from aiohttp import web


async def take(request: web.Request) -> web.Response:
    await request.read()
    if request.path == "/hangs":
        await asyncio.sleep(3_600)
    return web.Response(status=500 if request.path == "/fails" else 200)


if __name__ == "__main__":
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", take)
    web.run_app(application, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)
