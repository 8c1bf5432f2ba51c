"""The short way to upstream models answers as the routes do, and only what they would pass through."""

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from app.api.openai import upstream_shortcut
from app.domain.models.access import NewKey, Scope
from tests.api.openai.gateway_app import BODIES, KINDS, body, recorded, serve_gateway
from tests.api.serving import Served
from tests.fakes.openai import FakeOpenAI

URL = {kind: f"/v1{path}" for kind, (path, _) in BODIES.items()}


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models of the calls that went the short way."""
    models: list[str] = []
    made = upstream_shortcut.UpstreamReply

    def note(gateway: Any, asked: Any, access: Any) -> Any:
        models.append(asked.model)
        return made(gateway, asked, access)

    monkeypatch.setattr(upstream_shortcut, "UpstreamReply", note)
    return models


async def send(served: Served, kind: str, data: Any, key: str | None = None, **more: str) -> httpx2.Response:
    headers = {"content-type": "application/json", **more}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    return await served.http.post(URL[kind], content=data, headers=headers)


async def new_key(served: Served, *scopes: Scope, **fields: Any) -> str:
    new = NewKey(organization_id="acme", name="test", scopes=frozenset(scopes or ("read", "write")), **fields)
    return (await served.container.keys.create(new)).secret


@pytest.mark.parametrize("kind", KINDS)
async def test_upstream_models(serve: Callable[..., Any], fake: FakeOpenAI, taken: list[str], kind: str) -> None:
    served = await serve_gateway(serve, fake)
    reply = await send(served, kind, body(kind))
    assert reply.status_code == 200, reply.text
    assert taken == [BODIES[kind][1]["model"]]
    (row,) = await recorded(served)
    assert row["outcome"] == "success"


async def test_a_body_in_parts(serve: Callable[..., Any], fake: FakeOpenAI, taken: list[str]) -> None:
    served = await serve_gateway(serve, fake)
    data = body("plain chat")
    parts = [data[start : start + 9] for start in range(0, len(data), 9)]
    async with served.request("POST", URL["plain chat"], chunks=parts) as request:
        assert await request.head() == 200
        assert json.loads(await request.body())["object"] == "chat.completion"
    assert taken == ["gpt-4.1-mini"]


@pytest.mark.parametrize("kind", ["plain response", "streamed response"])
async def test_agents_are_not_touched(serve: Callable[..., Any], fake: FakeOpenAI, taken: list[str], kind: str) -> None:
    served = await serve_gateway(serve, fake, models="*")
    agent = served.container.provider.agents()[0].key
    reply = await send(served, kind, body(kind, model=agent))
    assert reply.status_code == 200, reply.text
    assert taken == []
    assert served.rows("SELECT run_id FROM agent_run_usage WHERE run_id LIKE 'req_%'") == []


async def test_off(serve: Callable[..., Any], fake: FakeOpenAI, taken: list[str]) -> None:
    served = await serve_gateway(serve, fake, models="")
    assert (await send(served, "embeddings", body("embeddings"))).status_code == 404
    assert taken == []


class TestWithKeys:
    async def test_who_may(self, serve: Callable[..., Any], fake: FakeOpenAI, taken: list[str]) -> None:
        served = await serve_gateway(serve, fake)
        key = await new_key(served)
        assert (await send(served, "embeddings", body("embeddings"), key)).status_code == 200
        (row,) = await recorded(served)
        assert row["organization_id"] == "acme"
        assert row["api_key_id"] is not None

    async def test_who_may_not(self, serve: Callable[..., Any], fake: FakeOpenAI, taken: list[str]) -> None:
        served = await serve_gateway(serve, fake)
        reader = await new_key(served, "read")
        narrow = await new_key(served, models=frozenset({"gpt-5"}))
        for key, status in ((None, 401), ("sk-wrong", 401), (reader, 403), (narrow, 404)):
            for kind in KINDS:
                reply = await send(served, kind, body(kind), key)
                assert reply.status_code == status, reply.text
        assert taken == []
        assert fake.requests == []


async def test_bodies_are_still_limited(serve: Callable[..., Any], fake: FakeOpenAI, taken: list[str]) -> None:
    served = await serve_gateway(serve, fake)
    data = body("embeddings", input="x" * 2_000_000)
    assert (await send(served, "embeddings", data)).status_code == 413
    parts = [data[start : start + 400_000] for start in range(0, len(data), 400_000)]
    async with served.request("POST", URL["embeddings"], chunks=parts) as request:
        assert await request.head() == 413
        assert json.loads(await request.body())["error"]["code"] == "body_too_large"
    assert (await send(served, "embeddings", b"model=x", **{"content-type": "text/plain"})).status_code == 415
    assert taken == []
    assert fake.requests == []


async def test_what_does_not_fit_goes_to_the_routes(
    serve: Callable[..., Any], fake: FakeOpenAI, taken: list[str]
) -> None:
    served = await serve_gateway(serve, fake)
    for data in (b"", b"{", b"[]", b'{"input": "x"}', b'{"model": 5}', b'{"model": "unknown"}'):
        for kind in ("embeddings", "plain response", "plain chat"):
            reply = await send(served, kind, data)
            assert 400 <= reply.status_code <= 404, reply.text
            assert reply.json()["error"]["type"] == "invalid_request_error"
    assert taken == []


async def test_what_was_read_is_given_again() -> None:
    messages: list[Any] = [
        {"type": "http.request", "body": b"a", "more_body": True},
        {"type": "http.disconnect"},
        {"type": "http.disconnect"},
    ]
    coming = list(messages)

    async def receive() -> Any:
        return coming.pop(0)

    left = upstream_shortcut._Body(receive)
    assert await left.whole() is None
    assert [await left.again() for _ in range(3)] == messages
