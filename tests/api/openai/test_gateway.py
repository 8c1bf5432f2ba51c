"""Calls of upstream models that pass through: what client and upstream see, and what is recorded, for every end."""

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from unittest.mock import AsyncMock

import httpx2
import pytest

from tests.api.openai.gateway_app import (
    BODIES,
    KINDS,
    PLAIN,
    QUESTION,
    STREAMED,
    body,
    on_a_socket,
    recorded,
    serve_gateway,
    url,
)
from tests.api.serving import Served
from tests.fakes.openai import FakeOpenAI

WORDS = len(QUESTION.split())


def counted(kind: str) -> int:
    """Our own count of the question's tokens: every word is one, and a chat's role counts too."""
    return WORDS + (2 if "chat" in kind else 0)


async def post(served: Served, kind: str, data: bytes | None = None, **headers: str) -> httpx2.Response:
    sent = body(kind) if data is None else data
    return await served.http.post(url(kind), content=sent, headers={"content-type": "application/json", **headers})


def code(reply: httpx2.Response) -> str:
    error = reply.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return str(error["code"])


def usage_of(kind: str, reply: httpx2.Response) -> dict[str, Any]:
    """What the client was told, in our words."""
    told = reply.json()
    if kind in STREAMED:
        raise AssertionError
    usage = told["usage"]
    return {
        "input_tokens": usage.get("prompt_tokens", usage.get("input_tokens")),
        "output_tokens": usage.get("completion_tokens", usage.get("output_tokens", 0)),
    }


@pytest.mark.parametrize("kind", KINDS)
async def test_success(serve: Callable[..., Any], fake: FakeOpenAI, kind: str) -> None:
    served = await serve_gateway(serve, fake)
    reply = await post(served, kind)
    assert reply.status_code == 200, reply.text
    assert reply.headers["openai-version"] == "2020-10-01"
    (sent,) = fake.requests
    assert reply.headers["x-upstream-request-id"].startswith("req_")
    assert reply.headers["x-request-id"] != reply.headers["x-upstream-request-id"]
    assert sent.authorized
    assert sent.path == f"/v1{BODIES[kind][0]}"
    (row,) = await recorded(served)
    assert row["outcome"] == row["session_outcome"] == "success"
    assert (row["type"], row["accuracy"]) == ("session.completed", "exact")
    assert row["endpoint"] == BODIES[kind][0].removeprefix("/")
    assert (row["model"], row["http_status"]) == (BODIES[kind][1]["model"], 200)
    assert row["input_tokens"] == WORDS
    assert row["output_tokens"] == (0 if kind == "embeddings" else row["output_tokens"])
    assert kind == "embeddings" or Decimal(row["cost_usd"]) > 0
    assert row["payload"]["upstream_request_id"] == reply.headers["x-upstream-request-id"]
    assert row["payload"]["usage"]["cost_usd"] == row["cost_usd"]
    assert (row["first_token_ms"] is not None) == (kind in STREAMED)
    assert (row["response_id"] is None) == (kind == "embeddings")
    if kind in PLAIN:
        told = usage_of(kind, reply)
        assert told["input_tokens"] == row["input_tokens"]
        assert told["output_tokens"] == row["output_tokens"]


async def test_details_are_recorded(serve: Callable[..., Any], fake: FakeOpenAI) -> None:
    from tests.fakes.openai import Text, Usage
    from tests.fakes.openai.replies import Reply

    served = await serve_gateway(serve, fake)
    usage = Usage(input=100, output=50, cached=60, cache_write=20, reasoning=30)
    kinds = [kind for kind in KINDS if kind != "embeddings"]
    for kind in kinds:
        fake.script([Reply((Text("hi"),), usage=usage)])
        assert (await post(served, kind)).status_code == 200
    for row in await recorded(served, len(kinds)):
        names = ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")
        assert [row[name] for name in names] == [100, 50, 60, 20, 30]


@pytest.mark.parametrize("kind", KINDS)
async def test_an_error_of_the_upstream(serve: Callable[..., Any], fake: FakeOpenAI, kind: str) -> None:
    served = await serve_gateway(serve, fake)
    statuses = ((400, 400), (404, 404), (429, 429), (401, 502), (403, 502), (500, 502))
    for calls, (status, seen) in enumerate(statuses, start=1):
        fake.fail_next(status, code="told_so", message="secret detail", headers={"retry-after": "7"})
        reply = await post(served, kind)
        assert reply.status_code == seen
        if seen == status:
            assert code(reply) == "told_so"
            assert reply.headers["retry-after"] == "7"
            assert reply.headers["content-type"] == "application/json"
        else:
            assert code(reply) == ("provider_error" if status == 500 else "provider_rejected")
            assert "secret" not in reply.text
        row = (await recorded(served, calls))[-1]
        assert (row["outcome"], row["accuracy"], row["http_status"]) == ("error", "exact", status)
        assert (row["type"], row["session_outcome"]) == ("run.failed", "error")
        assert (row["requests"], row["input_tokens"], row["output_tokens"]) == (1, 0, 0)
        wanted = "told_so" if seen == status else f"upstream_{status}"
        assert row["payload"]["outcome"] == {"status": "error", "error_code": wanted, "end": "upstream_error"}


@pytest.mark.parametrize("kind", PLAIN)
async def test_a_plain_answer_is_cut(serve: Callable[..., Any], fake: FakeOpenAI, kind: str) -> None:
    served = await serve_gateway(serve, fake)
    fake.cut_next()
    reply = await post(served, kind)
    assert (reply.status_code, code(reply)) == (502, "provider_error")
    (row,) = await recorded(served)
    assert (row["outcome"], row["accuracy"]) == ("error", "estimated")
    assert row["payload"]["outcome"]["end"] == "upstream_cut"
    assert row["input_tokens"] == counted(kind)


@pytest.mark.parametrize("kind", STREAMED)
async def test_a_cut_stream_looks_cut(serve: Callable[..., Any], fake: FakeOpenAI, kind: str) -> None:
    """On a socket: the chunked body has no end."""
    served = await serve_gateway(serve, fake)
    events = 5 if kind == "streamed chat" else 7
    async with on_a_socket(served) as connect:
        whole = await connect()
        await whole.send(url(kind), body(kind))
        await whole.until(b"\r\n0\r\n\r\n")
        fake.cut_next(events)
        cut = await connect()
        await cut.send(url(kind), body(kind))
        head = await cut.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"transfer-encoding: chunked" in head
        text = await cut.to_the_end()
    assert text.count(b"data: ") == events
    assert not text.endswith(b"0\r\n\r\n")
    _, row = await recorded(served, 2)
    assert (row["outcome"], row["accuracy"], row["http_status"]) == ("error", "estimated", 200)
    assert row["payload"]["outcome"]["end"] == "upstream_cut"
    assert row["input_tokens"] == counted(kind)
    assert 0 < row["output_tokens"] <= 10


@pytest.mark.parametrize("kind", KINDS)
async def test_the_client_leaves_before_the_answer(serve: Callable[..., Any], fake: FakeOpenAI, kind: str) -> None:
    served = await serve_gateway(serve, fake)
    fake.hang_next()
    async with on_a_socket(served) as connect:
        client = await connect()
        await client.send(url(kind), body(kind))
        await fake.until(lambda requests: len(requests) == 1)
        await client.hang_up()
        await fake.until(lambda requests: requests[0].outcome == "client_gone")
        (row,) = await recorded(served)
    assert (row["outcome"], row["accuracy"]) == ("cancelled", "estimated")
    assert (row["type"], row["session_outcome"]) == ("run.failed", "user_terminated")
    assert row["input_tokens"] == counted(kind)
    assert row["output_tokens"] == 0
    assert served.container.gateway.open_calls == 0


@pytest.mark.parametrize("kind", STREAMED)
async def test_the_client_leaves_a_stream(serve: Callable[..., Any], fake: FakeOpenAI, kind: str) -> None:
    served = await serve_gateway(serve, fake)
    fake.hang_next(after_events=7)
    async with on_a_socket(served) as connect:
        client = await connect()
        await client.send(url(kind), body(kind))
        await client.until(b"please")
        await client.hang_up()
        await fake.until(lambda requests: requests[0].outcome == "client_gone")
        (row,) = await recorded(served)
    assert (row["outcome"], row["accuracy"], row["http_status"]) == ("cancelled", "estimated", 200)
    assert row["payload"]["outcome"]["end"] == "client_gone"
    assert 0 < row["output_tokens"] <= 10


@pytest.mark.parametrize("kind", KINDS)
async def test_the_upstream_takes_too_long(serve: Callable[..., Any], fake: FakeOpenAI, kind: str) -> None:
    served = await serve_gateway(serve, fake, timeout_s=0.2)
    fake.hang_next()
    reply = await post(served, kind)
    assert (reply.status_code, code(reply)) == (504, "provider_timeout")
    (row,) = await recorded(served)
    assert (row["outcome"], row["accuracy"], row["http_status"]) == ("timeout", "estimated", None)
    assert row["session_outcome"] == "timeout"
    await fake.until(lambda requests: requests[0].outcome == "client_gone")


@pytest.mark.parametrize("kind", STREAMED)
async def test_a_stream_falls_silent(serve: Callable[..., Any], fake: FakeOpenAI, kind: str) -> None:
    served = await serve_gateway(serve, fake, chunk_timeout_s=0.2)
    fake.hang_next(after_events=7)
    async with on_a_socket(served) as connect:
        client = await connect()
        await client.send(url(kind), body(kind))
        assert not (await client.to_the_end()).endswith(b"0\r\n\r\n")
    (row,) = await recorded(served)
    assert (row["outcome"], row["payload"]["outcome"]["end"]) == ("timeout", "upstream_timeout")


@pytest.mark.parametrize("kind", KINDS)
async def test_the_upstream_is_away(serve: Callable[..., Any], kind: str) -> None:
    with FakeOpenAI() as fake:
        pass
    served = await serve_gateway(serve, fake)
    reply = await post(served, kind)
    assert (reply.status_code, code(reply)) == (504, "provider_timeout")
    (row,) = await recorded(served)
    assert (row["outcome"], row["accuracy"], row["input_tokens"]) == ("error", "exact", 0)
    assert row["payload"]["outcome"]["end"] == "upstream_away"


@pytest.mark.parametrize("kind", PLAIN)
async def test_an_answer_that_is_no_json(serve: Callable[..., Any], fake: FakeOpenAI, kind: str) -> None:
    served = await serve_gateway(serve, fake)
    fake.garbage_next()
    reply = await post(served, kind)
    assert reply.status_code == 200
    assert reply.content.startswith(b"<html>")
    (row,) = await recorded(served)
    assert (row["outcome"], row["accuracy"], row["input_tokens"]) == ("success", "estimated", counted(kind))


async def test_bytes_go_as_they_came(serve: Callable[..., Any], fake: FakeOpenAI) -> None:
    """The upstream of this test keeps the raw bytes."""
    served = await serve_gateway(serve, fake)
    for kind in PLAIN:
        await post(served, kind)
    lengths = [int(request.headers["content-length"]) for request in fake.requests]
    assert lengths == [len(body(kind)) for kind in PLAIN]
    for request in fake.requests:
        assert request.headers["accept-encoding"] == "identity"
        assert "cookie" not in request.headers


async def test_headers_of_the_client(serve: Callable[..., Any], fake: FakeOpenAI) -> None:
    served = await serve_gateway(serve, fake)
    headers = {
        "authorization": "Bearer sk-client",
        "openai-beta": "x=1",
        "x-forwarded-for": "10.0.0.1",
        "cookie": "a=b",
    }
    assert (await post(served, "plain chat", **headers)).status_code == 200
    (request,) = fake.requests
    assert request.authorized
    assert request.headers["openai-beta"] == "x=1"
    assert not request.headers.keys() & {"x-forwarded-for", "cookie", "openai-organization"}


class TestStreamedChatUsage:
    async def test_not_asked_for(self, serve: Callable[..., Any], fake: FakeOpenAI) -> None:
        served = await serve_gateway(serve, fake)
        reply = await post(served, "streamed chat")
        (request,) = fake.requests
        assert request.body["stream_options"] == {"include_usage": True}
        assert "usage" not in reply.text
        chunks = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
        assert all(chunk["choices"] for chunk in chunks)
        assert reply.text.endswith("data: [DONE]\n\n")
        (row,) = await recorded(served)
        assert row["accuracy"] == "exact"

    async def test_asked_for(self, serve: Callable[..., Any], fake: FakeOpenAI) -> None:
        served = await serve_gateway(serve, fake)
        reply = await post(served, "streamed chat", body("streamed chat", stream_options={"include_usage": True}))
        chunks = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]["prompt_tokens"] == WORDS
        assert "usage" in chunks[0]

    async def test_other_options_stay(self, serve: Callable[..., Any], fake: FakeOpenAI) -> None:
        served = await serve_gateway(serve, fake)
        options = {"include_obfuscation": False, "include_usage": False}
        reply = await post(served, "streamed chat", body("streamed chat", stream_options=options))
        assert reply.status_code == 200, reply.text
        (request,) = fake.requests
        assert request.body["stream_options"] == {"include_obfuscation": False, "include_usage": True}
        assert "usage" not in reply.text

    async def test_switched_off(self, serve: Callable[..., Any], fake: FakeOpenAI) -> None:
        served = await serve_gateway(serve, fake, stream_usage=False)
        reply = await post(served, "streamed chat")
        assert reply.status_code == 200
        (request,) = fake.requests
        assert "stream_options" not in request.body
        (row,) = await recorded(served)
        assert (row["accuracy"], row["outcome"], row["input_tokens"]) == (
            "estimated",
            "success",
            counted("streamed chat"),
        )
        assert row["output_tokens"] > 0


async def test_a_failure_inside_of_a_stream(serve: Callable[..., Any], fake: FakeOpenAI) -> None:
    from tests.fakes.openai import failed

    served = await serve_gateway(serve, fake)
    for kind in STREAMED:
        fake.script([failed(message="it broke")])
        reply = await post(served, kind)
        assert "it broke" in reply.text
    for row in await recorded(served, 2):
        assert (row["outcome"], row["payload"]["outcome"]["end"]) == ("error", "upstream_error")
        assert row["payload"]["outcome"]["error_code"] == "server_error"


class TestWhichModels:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_none_by_default(self, serve: Callable[..., Any], fake: FakeOpenAI, kind: str) -> None:
        served = await serve_gateway(serve, fake, models="")
        reply = await post(served, kind)
        assert (reply.status_code, code(reply)) == (404, "model_not_found")
        assert fake.requests == []
        assert await served.container.gateway.models() == []

    async def test_named_and_patterns(self, serve: Callable[..., Any], fake: FakeOpenAI) -> None:
        served = await serve_gateway(serve, fake, models=" my-tune ,gpt-4o*,, gpt-4.1")
        gateway = served.container.gateway
        assert await gateway.models() == ["my-tune", "gpt-4.1", "gpt-4o", "gpt-4o-mini"]
        assert await gateway.models() == ["my-tune", "gpt-4.1", "gpt-4o", "gpt-4o-mini"]
        assert fake.count("/models") == 1
        for model, status in (("gpt-4.1", 200), ("gpt-4.1-mini", 404), ("gpt-4o-mini", 200), ("xgpt-4o", 404)):
            assert (await post(served, "plain chat", body("plain chat", model=model))).status_code == status
        # What the upstream does not have is for it to say.
        reply = await post(served, "plain chat", body("plain chat", model="my-tune"))
        assert (reply.status_code, code(reply)) == (404, "model_not_found")

    async def test_of_the_caller(
        self, serve: Callable[..., Any], fake: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from app.domain.models.access import Principal
        from app.domain.models.conversations import Caller

        served = await serve_gateway(serve, fake)
        principal = Principal(Caller("acme", "ann", "proj_1", "key_1"), models=frozenset({"gpt-4.1-mini"}))
        monkeypatch.setattr(served.container.access, "identify", AsyncMock(return_value=principal))
        assert (await post(served, "plain chat")).status_code == 200
        assert (await post(served, "embeddings")).status_code == 404
        assert await served.container.gateway.models(principal) == ["gpt-4.1-mini"]
        (row,) = await recorded(served)
        assert [row[name] for name in ("organization_id", "user_id", "project_id", "api_key_id")] == [
            *("acme", "ann", "proj_1", "key_1")
        ]

    async def test_the_upstream_does_not_tell(self, serve: Callable[..., Any], fake: FakeOpenAI) -> None:
        served = await serve_gateway(serve, fake, models="mine,gpt-*")
        fake.fail_next(500, path="/models")
        assert await served.container.gateway.models() == ["mine"]

    @pytest.mark.parametrize(
        "sent",
        [
            b'{"model": "gpt-5", "messages": [], "model": "gpt-4.1-mini"}',
            b'{"mod\\u0065l": "gpt-5", "messages": [], "model": "gpt-4.1-mini"}',
        ],
    )
    async def test_named_twice(self, serve: Callable[..., Any], fake: FakeOpenAI, sent: bytes) -> None:
        served = await serve_gateway(serve, fake, models="gpt-4.1-mini")
        sent = sent.replace(b"[]", b'[{"role": "user", "content": "hi"}]')
        assert (await post(served, "plain chat", sent)).status_code == 200
        (request,) = fake.requests
        assert request.body["model"] == "gpt-4.1-mini"
        assert int(request.headers["content-length"]) < len(sent)


REFUSED: list[tuple[bytes, str | None]] = [
    (b"", None),
    (b"nope", None),
    (b"[]", None),
    (b'"x"', None),
    (b'{"model": "gpt-4.1"', None),
    (b'{"model": "\xff"}', None),
    (b'{"a": ' + b"[" * 50_000 + b"]" * 50_000 + b', "model": "gpt-4.1"}', None),
    (b"{}", "model"),
    (b'{"model": 5}', "model"),
    (b'{"model": null}', "model"),
    (b'{"model": ""}', "model"),
    (b'{"model": "' + b"g" * 256 + b'"}', "model"),
    (b'{"model": "gpt-4.1", "stream": 1}', "stream"),
    (b'{"model": "gpt-4.1", "stream_options": []}', "stream_options"),
    (b'{"model": "gpt-4.1", "background": true}', "background"),
]


async def test_bodies_that_are_refused(serve: Callable[..., Any], fake: FakeOpenAI) -> None:
    served = await serve_gateway(serve, fake)
    for sent, param in REFUSED:
        reply = await post(served, "plain response", sent)
        assert reply.status_code == 400, (sent[:40], reply.text)
        error = reply.json()["error"]
        assert (error["type"], error["param"]) == ("invalid_request_error", param), sent[:40]
    assert fake.requests == []


async def test_the_limit_of_calls(serve: Callable[..., Any], fake: FakeOpenAI) -> None:
    served = await serve_gateway(serve, fake, max_calls=1)
    fake.hang_next()
    first = asyncio.create_task(post(served, "plain chat"))
    await fake.until(lambda requests: len(requests) == 1)
    refused = await post(served, "plain chat")
    assert (refused.status_code, code(refused)) == (429, "rate_limit_exceeded")
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert refused.headers["retry-after"] == "1"
    fake.release()
    assert (await first).status_code == 200
    assert (await post(served, "plain chat")).status_code == 200
    await recorded(served, 2)


async def test_before_the_reply(serve: Callable[..., Any], fake: FakeOpenAI) -> None:
    served = await serve_gateway(serve, fake, record="before_reply", flush_ms=10_000)
    for number, kind in enumerate(KINDS, start=1):
        assert (await post(served, kind)).status_code == 200
        assert len(served.rows("SELECT * FROM agent_run_usage")) == number


async def test_the_last_calls_are_written_at_the_end(
    serve: Callable[..., Any], fake: FakeOpenAI, database_file: str
) -> None:
    from tests.api.serving import serving, settings_of

    openai = {"api_key": fake.api_key, "base_url": fake.base_url}
    settings = settings_of(database_file, openai=openai, gateway={"models": "text-*", "flush_ms": 10_000})
    async with serving(settings) as served:
        reply = await served.http.post("/v1/embeddings", json=BODIES["embeddings"][1])
        assert reply.status_code == 200, reply.text
        assert served.rows("SELECT * FROM agent_run_usage") == []
    assert len(served.rows("SELECT * FROM agent_run_usage")) == 1


async def test_many_at_once_are_one_row_each(serve: Callable[..., Any], fake: FakeOpenAI) -> None:
    served = await serve_gateway(serve, fake, flush_ms=20)
    replies = await asyncio.gather(*(post(served, KINDS[number % 5]) for number in range(40)))
    assert {reply.status_code for reply in replies} == {200}
    rows = await recorded(served, 40)
    assert len({row["run_id"] for row in rows}) == len({row["event_id"] for row in rows}) == 40


async def test_a_client_of_the_real_api(serve: Callable[..., Any], fake: FakeOpenAI) -> None:
    from openai import AsyncOpenAI

    served = await serve_gateway(serve, fake)
    client = AsyncOpenAI(api_key="none", base_url="http://localhost:8000/v1", http_client=served.http, max_retries=0)
    given = await client.embeddings.create(model="text-embedding-3-small", input=["one", "two"], dimensions=4)
    assert [len(item.embedding) for item in given.data] == [4, 4]
    assert given.usage.prompt_tokens == 2
