"""Webhook endpoints by the official client's own verbs, and deliveries to a real receiver."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.models.access import NewKey
from tests.api.openai.response_clients import wipe
from tests.api.serving import Served, calls, says, scripted, serving, settings_of
from tests.unit.infrastructure.completions.test_destinations import receiver


def agents() -> list[Any]:
    """One that answers, one that asks before it acts, one that has nothing to say."""
    asks = calls("wipe", '{"disk": "my disk"}', "call_w")
    return [
        scripted(says("hello")),
        scripted(asks, says("Wiped."), name="keeper", tools=[wipe]),
        scripted(name="mute"),
    ]


@pytest.fixture
async def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    told = {"ALLOW_PRIVATE_WEBHOOKS": "true", "POLL_S": "0.02", "ENDPOINTS_S": "0.02"}
    for name, value in told.items():
        monkeypatch.setenv(f"APP_DELIVERY_{name}", value)
    async with serving(settings_of(f"sqlite:///{tmp_path}/hooks.db"), agents=agents()) as running:
        yield running


@pytest.fixture
def client(served: Served) -> AsyncOpenAI:
    return AsyncOpenAI(api_key="unused", base_url="http://localhost:8000/v1", http_client=served.http, max_retries=0)


async def test_the_clients_verbs(client: AsyncOpenAI) -> None:
    made = await client.webhooks.create(
        name="mine", url="https://example.com/hook", event_types=["response.completed", "response.failed"]
    )
    assert made.signing_secret.startswith("whsec_")
    assert made.signing_secret_hint == f"whsec_...{made.signing_secret[-4:]}"
    other = await client.webhooks.create(name="b", url="https://example.com/b", event_types=["response.failed"])
    assert [one.id async for one in client.webhooks.list(limit=1)] == [other.id, made.id]
    changed = await client.webhooks.update(made.id, name="renamed")
    assert (changed.name, changed.url) == ("renamed", made.url)
    assert (await client.webhooks.retrieve(made.id)).name == "renamed"
    rotated = await client.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
    assert rotated.signing_secret != made.signing_secret
    assert "response.completed" in (await client.webhooks.event_types.list()).data
    assert (await client.webhooks.delete(made.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.webhooks.retrieve(made.id)
    for call in (client.webhooks.delete, client.webhooks.rotate_secret):
        with pytest.raises(openai.NotFoundError):
            await call("we_unknown")


@pytest.mark.parametrize(
    ("field", "value"),
    [("url", "ftp://x/"), ("url", "https://u:p@x/"), ("url", "nonsense"), ("name", " "), ("event_types", ["x"])],
)
async def test_wrong_values_are_named(served: Served, field: str, value: Any) -> None:
    body = {"name": "n", "url": "https://example.com", "event_types": ["session.completed"], field: value}
    reply = await served.http.post("/v1/webhook_endpoints", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, field)


async def test_a_run_is_delivered_tested_and_delivered_again(served: Served, client: AsyncOpenAI) -> None:
    async with receiver() as hook, asyncio.timeout(20):
        made = await client.webhooks.create(name="mine", url=hook.url, event_types=["response.completed"])
        tested = await client.webhooks.test(made.id, event_type="response.completed")
        assert (tested.status_code, tested.success) == (200, True)
        response = await client.responses.create(model="helper", input="hi")
        while len(hook.requests) < 2:
            await asyncio.sleep(0.01)
        body, headers = hook.requests[1]
        event = client.webhooks.unwrap(body, headers, secret=made.signing_secret)
        assert (event.type, event.data.id) == ("response.completed", response.id)
        path = f"/v1/webhook_endpoints/{made.id}/deliveries"
        while not (listed := (await served.http.get(f"{path}?status=delivered")).json())["data"]:
            await asyncio.sleep(0.01)
        assert listed["data"][0]["id"] == event.id
        assert listed["data"][0]["attempts"][0]["status_code"] == 200
        again = await served.http.post(f"{path}/{event.id}/redeliver")
        assert again.status_code == 200
        while len(hook.requests) < 3:
            await asyncio.sleep(0.01)
        assert hook.requests[2][1]["webhook-id"] == headers["webhook-id"]
        missing: httpx2.Response = await served.http.post(f"{path}/unknown/redeliver")
        assert missing.status_code == 404


async def test_a_request_for_approval_and_a_failure_are_told_once_each(served: Served, client: AsyncOpenAI) -> None:
    types = ["approval.requested", "run.failed", "session.completed"]
    async with receiver() as hook, asyncio.timeout(20):
        made = await client.webhooks.create(name="desk", url=hook.url, event_types=types)
        asking = await client.responses.create(model="keeper", input="wipe it")
        asked = await the_next(hook, 0)
        request = asking.output[-1]
        assert request.type == "mcp_approval_request"
        assert (asked["type"], asked["data"]["run_id"]) == ("approval.requested", f"run_{asking.id[5:]}")
        assert asked["data"]["agent"] == "keeper"
        assert asked["data"]["tools"] == ["wipe"]
        assert [one["id"] for one in asked["data"]["approvals"]] == ["call_w"]
        assert "my disk" not in json.dumps(asked)  # no content for those to whom none is allowed
        answer = {"type": "mcp_approval_response", "approval_request_id": request.id, "approve": True}
        await client.responses.create(model="keeper", input=[answer], previous_response_id=asking.id)  # type: ignore[list-item]
        ended = await the_next(hook, 1)
        assert (ended["type"], ended["data"]["session_id"]) == ("session.completed", asked["data"]["session_id"])
        failing = await client.responses.create(model="mute", input="say something")
        assert failing.status == "failed"
        failed = await the_next(hook, 2)
        assert (failed["type"], failed["data"]["outcome"]["status"]) == ("run.failed", "error")
        assert failed["data"]["outcome"]["error_code"] is not None
        path = f"/v1/webhook_endpoints/{made.id}/deliveries"
        listed = (await served.http.get(path)).json()["data"]
        assert sorted(one["id"] for one in listed) == sorted([asked["id"], ended["id"], failed["id"]])


async def the_next(hook: Any, number: int) -> dict[str, Any]:
    """Wait for a request and return its body."""
    while len(hook.requests) <= number:
        await asyncio.sleep(0.01)
    return json.loads(hook.requests[number][0])


async def test_what_cannot_be_reached_is_said(served: Served, client: AsyncOpenAI) -> None:
    async with receiver() as hook:
        url = hook.url
    made = await client.webhooks.create(name="gone", url=url, event_types=["response.completed"])
    with pytest.raises(openai.InternalServerError) as failed:
        await client.webhooks.test(made.id, event_type="response.completed")
    assert failed.value.code == "webhook_endpoint_unreachable"


async def test_private_addresses_need_the_setting(tmp_path: Path) -> None:
    async with serving(settings_of(f"sqlite:///{tmp_path}/hooks.db"), agents=[scripted()]) as running:
        body = {"name": "n", "url": "http://127.0.0.1/", "event_types": ["session.completed"]}
        assert (await running.http.post("/v1/webhook_endpoints", json=body)).status_code == 400
        body["url"] = "https://127.0.0.1/"
        made = (await running.http.post("/v1/webhook_endpoints", json=body)).json()
        tested = await running.http.post(
            f"/v1/webhook_endpoints/{made['id']}/test", json={"event_type": "session.completed"}
        )
        assert tested.status_code == 502
        assert "not public" in tested.json()["error"]["message"]


async def test_an_administrator_registers_endpoints_unless_confined_to_a_project(
    served: Served, client: AsyncOpenAI
) -> None:
    async def with_key(**whose: Any) -> AsyncOpenAI:
        new = NewKey(organization_id="acme", name="k", scopes=frozenset({"admin"}), **whose)
        return client.with_options(api_key=(await served.container.keys.create(new)).secret)

    project = await served.container.keys.create_project("acme", "web")
    wanted: Any = {"name": "n", "url": "https://example.com", "event_types": ["session.completed"]}
    of_project = await with_key(project_id=project.id)
    with pytest.raises(openai.PermissionDeniedError, match="confined to a project"):
        await of_project.webhooks.create(**wanted)
    assert (await (await with_key(user_id="jo")).webhooks.create(**wanted)).name == "n"


async def test_another_organization_sees_nothing(engine: AsyncEngine) -> None:
    from functools import partial

    from app.domain.errors import InvalidInput
    from app.infrastructure.completions.assembly import build_destination
    from app.infrastructure.persistence.deliveries import SqlDeliveryStore
    from app.infrastructure.persistence.webhook_endpoints import SqlWebhookEndpointStore
    from app.services.webhook_endpoints import WebhookEndpointService
    from tests.contract.completions.receivers import SimulatedClock

    clock = SimulatedClock()
    store = SqlWebhookEndpointStore(engine)
    service = WebhookEndpointService(store, SqlDeliveryStore(engine), partial(build_destination), clock)
    made = await service.create("acme", name="n", url="https://example.com", event_types=["session.completed"])
    assert await service.get("other", made.id) is None
    assert await service.update("other", made.id, name="x") is None
    assert await service.rotate_secret("other", made.id) is None
    assert await service.test("other", made.id, "session.completed") is None
    assert not await service.delete("other", made.id)
    assert (await service.list("other"))[0] == []
    with pytest.raises(InvalidInput):
        await service.list("acme", limit=0)
    rotated = await service.rotate_secret("acme", made.id, keep_old=True)
    assert rotated is not None
    assert list(rotated.secrets(clock.now())) == [rotated.secret, made.secret]
    clock.turn(86_401)
    assert list(rotated.secrets(clock.now())) == [rotated.secret]
