"""Tenants that have something of every kind, and the application for tests that cannot await."""

import asyncio
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx2
from anyio.from_thread import BlockingPortal, start_blocking_portal

from app.domain.models.access import ALL_SCOPES, NewKey
from app.domain.models.deliveries import EventFilter
from app.settings import Settings
from tests.api.serving import Served, serving


@dataclass
class Tenant:
    """An organization, its key, and what it owns."""

    name: str
    marker: str
    """Stands in everything that the tenant has written; nobody else may ever read it."""
    secret: str
    ids: dict[str, list[str]] = field(default_factory=dict)
    """By the name of the path parameter that takes them."""
    session_id: str = ""
    thread_id: str = ""
    share_token: str = ""
    call_id: str = ""
    """Waits for an approval, in the second run."""

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.secret}"}

    def own(self, name: str, value: str) -> str:
        """Note an object."""
        self.ids.setdefault(name, []).append(value)
        return value


class Service:
    """The application, asked from outside of its event loop."""

    def __init__(self, portal: BlockingPortal, served: Served) -> None:
        self._portal = portal
        self._served = served

    def send(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, content: Any = None, json: Any = None
    ) -> httpx2.Response:
        """Send a request and read the whole reply."""

        async def ask() -> httpx2.Response:
            body = {"content": content} if json is None else {"json": json}
            return await self._served.http.request(method, url, headers=headers, **body)

        return self._portal.call(ask)

    def tenant(self, name: str) -> Tenant:
        """Make an organization that has something of every kind."""
        return self._portal.call(_tenant, self._served, name)


@contextmanager
def service(settings: Settings) -> Iterator[Service]:
    """Serve the demo agents in a thread of their own."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(serving(settings)) as served:
        yield Service(portal, served)


async def _tenant(served: Served, name: str) -> Tenant:
    key = await served.container.keys.create(NewKey(organization_id=name, name="all", scopes=frozenset(ALL_SCOPES)))
    tenant = Tenant(name, f"marker-of-{name}", key.secret)

    async def post(path: str, **body: Any) -> httpx2.Response:
        reply = await served.http.post(path, json=body, headers=tenant.headers)
        assert reply.status_code < 300, (path, reply.text)
        return reply

    text = f"Note this: {tenant.marker}"
    session = (await post("/api/session")).json()
    tenant.session_id = session["sessionId"]
    chat = {"sessionId": tenant.session_id}
    tenant.own("conversationId", session["conversationId"])
    tenant.own("runId", (await post("/api/chat", message=text, **chat)).json()["runId"])
    asks = (await post("/api/session", userId=session["userId"])).json()
    waiting = await post("/api/chat", message=f"Send a postcard from {tenant.marker}", sessionId=asks["sessionId"])
    assert waiting.status_code == 202
    tenant.own("runId", waiting.json()["runId"])
    tenant.call_id = waiting.json()["approvals"][0]["callId"]
    hook = {"name": tenant.marker, "url": "https://example.com/hook", "event_types": ["response.completed"]}
    tenant.own("webhook_endpoint_id", (await post("/v1/webhook_endpoints", **hook)).json()["id"])
    tenant.own("responseId", (await post("/v1/responses", model="demo", input=text)).json()["id"])
    completion = await post(
        "/v1/chat/completions", model="demo", store=True, messages=[{"role": "user", "content": text}]
    )
    tenant.own("completionId", completion.json()["id"])
    item = {"type": "message", "role": "user", "content": text}
    kept = await post("/v1/conversations", items=[item], title=tenant.marker, metadata={"note": tenant.marker})
    conversation = tenant.own("conversationId", kept.json()["id"])
    items = await served.http.get(f"/v1/conversations/{conversation}/items", headers=tenant.headers)
    tenant.own("chatId", conversation)  # any other name is free for everybody
    tenant.own("itemId", items.json()["data"][0]["id"])
    share = (await post(f"/v1/conversations/{conversation}/share")).json()
    tenant.own("shareId", share["id"])
    tenant.share_token = share["token"]
    project = (await post("/v1/organization/projects", name=tenant.marker)).json()["id"]
    tenant.own("project_id", project)
    tenant.own("key_id", (await post(f"/v1/organization/projects/{project}/api_keys", name=tenant.marker)).json()["id"])
    tenant.own("key_id", (await post("/v1/organization/admin_api_keys", name=tenant.marker)).json()["id"])
    chat_id = f"chat-of-{name}"
    message = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": text}]}
    await post("/api/chat/ai", id=chat_id, messages=[message])
    tenant.thread_id = f"thread-of-{name}"
    said = {"id": "m1", "role": "user", "content": text}
    await post(
        "/agui/demo",
        threadId=tenant.thread_id,
        runId="run-1",
        messages=[said],
        tools=[],
        context=[],
        state={},
        forwardedProps={},
    )
    tenant.own("event_id", await _delivered(served, name, tenant.ids["webhook_endpoint_id"][0]))
    return tenant


async def _delivered(served: Served, organization_id: str, endpoint_id: str) -> str:
    """Have everything that is recorded of an organization delivered to its endpoint; return the id of an event."""
    records = served.container.completions.records
    everything = EventFilter(organization_id, since=datetime(2020, 1, 1, tzinfo=UTC), destination=endpoint_id)
    async with asyncio.timeout(20):
        while not await records.redeliver(everything):  # events get their places in the background
            await asyncio.sleep(0.02)
    return (await records.deliveries(everything, limit=1))[0].event_id


def path_parameters(path: str) -> list[str]:
    """Return the names in a path of the description."""
    return re.findall(r"\{([^}]+)\}", path)
