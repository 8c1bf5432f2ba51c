"""Webhook endpoints by the official client's own verbs, and deliveries to a real receiver."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI
from sqlalchemy.ext.asyncio import AsyncEngine

from app import bootstrap
from app.completions import CompletionOptions
from app.services.delivery_rounds import DeliveryTimes
from tests.api.serving import Served, says, scripted, serving, settings_of
from tests.unit.infrastructure.completions.test_destinations import receiver


@pytest.fixture
async def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    options = CompletionOptions(allow_private_webhooks=True, times=DeliveryTimes(poll_s=0.02, endpoints_s=0.02))
    monkeypatch.setattr(bootstrap, "CompletionOptions", lambda: options)
    async with serving(settings_of(f"sqlite:///{tmp_path}/hooks.db"), agents=[scripted(says("hello"))]) as running:
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
