"""A delivery to a webhook endpoint, as the server sends it: what a client's `unwrap` is given."""

import json
from datetime import UTC, datetime

from aiohttp import web

from app.domain.models.deliveries import DestinationSettings, Message
from app.infrastructure.completions.destinations.http import HttpSink

SECRET = "whsec_" + "c2VjcmV0" * 6


async def signed_webhook() -> str:
    """Return JSON: `body` and `headers` of a request that was sent to an endpoint just now, and the `secret` it has."""
    taken: list[tuple[str, dict[str, str]]] = []

    async def take(request: web.Request) -> web.Response:
        taken.append((await request.text(), {name.lower(): value for name, value in request.headers.items()}))
        return web.Response()

    app = web.Application()
    app.router.add_post("/hook", take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        # Addresses of tenants must be public; this one is this machine's.
        options = {"allow_private": True}
        sink = HttpSink(DestinationSettings("we_1", kind="webhook", endpoint=url, secrets=(SECRET,), options=options))
        try:
            await sink.send([_message()])
        finally:
            await sink.aclose()
    finally:
        await runner.cleanup()
    body, headers = taken[0]
    return json.dumps({"body": body, "headers": headers, "secret": SECRET})


def _message() -> Message:
    return Message(
        id="evt_1",
        type="response.completed",
        key=None,
        organization_id="default",
        created_at=datetime.now(UTC),
        body={"id": "resp_0190a1b2c3d47e5f8091a2b3c4d5e6f7"},
    )
