"""Each injected fault is what the client sees, happens as often as asked, and is recorded."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx2
import pytest
from openai import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APITimeoutError,
    AsyncOpenAI,
    InternalServerError,
    NotFoundError,
    RateLimitError,
)

from tests.fakes.openai import FakeOpenAI, failed

MODEL = "gpt-4.1"
# Only reading may time out: a slow machine must not give up before the request is there.
READ_TIMEOUT = httpx2.Timeout(10, read=0.1)
ASK: dict[str, Any] = {"model": MODEL, "input": "hi"}
CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


async def test_fail_next(fake: FakeOpenAI, client: AsyncOpenAI) -> None:
    fake.fail_next(429, headers={"retry-after": "1"}, times=2, path="/responses")
    fake.fail_next(503, code="overloaded", message="too busy", error_type="server_error")

    for _ in range(2):
        with pytest.raises(RateLimitError) as limited:
            await client.responses.create(**ASK)
        assert (limited.value.code, limited.value.type) == ("rate_limit_exceeded", "rate_limit_error")
        assert limited.value.response.headers["retry-after"] == "1"
        assert limited.value.request_id is not None
    with pytest.raises(InternalServerError, match="too busy") as busy:
        await client.chat.completions.create(**CHAT)
    assert busy.value.code == "overloaded"
    assert (await client.responses.create(**ASK)).output_text == "echo 1: hi"

    ends = [(request.status, request.outcome) for request in fake.requests]
    assert ends == [(429, "fault"), (429, "fault"), (503, "fault"), (200, "answered")]
    assert fake.faults_left == 0


async def test_the_clients_own_retry_gets_through(fake: FakeOpenAI, client: AsyncOpenAI) -> None:
    fake.fail_next(500, headers={"retry-after-ms": "1"})
    response = await client.with_options(max_retries=1).responses.create(**ASK)

    assert response.output_text == "echo 1: hi"
    assert fake.count("/responses") == 2
    assert fake.requests[1].headers["x-stainless-retry-count"] == "1"


async def test_garbage_next(fake: FakeOpenAI, client: AsyncOpenAI) -> None:
    fake.garbage_next()
    with pytest.raises((APIResponseValidationError, ValueError)):
        await client.responses.create(**ASK)

    assert (fake.requests[0].status, fake.requests[0].outcome) == (200, "garbage")


async def test_hang_next_until_the_client_leaves(fake: FakeOpenAI, client: AsyncOpenAI) -> None:
    fake.script(["for the one who waits"])
    fake.hang_next()
    with pytest.raises(APITimeoutError):
        await client.with_options(timeout=READ_TIMEOUT).responses.create(**ASK)
    requests = await fake.until(lambda all_: all_[0].outcome == "client_gone")

    assert requests[0].status is None
    assert (await client.responses.create(**ASK)).output_text == "for the one who waits"


async def test_hang_next_until_released(fake: FakeOpenAI, client: AsyncOpenAI) -> None:
    fake.hang_next()
    waiting = asyncio.create_task(client.responses.create(**ASK))
    await fake.until(lambda requests: len(requests) == 1)
    assert fake.requests[0].outcome == "pending"
    fake.release()

    assert (await waiting).output_text == "echo 1: hi"
    with pytest.raises(TimeoutError):
        fake.wait_until(lambda requests: len(requests) == 2, timeout_s=0)


async def test_hang_next_until_the_server_stops() -> None:
    async with FakeOpenAI() as fake:
        fake.hang_next(times=2)
        async with AsyncOpenAI(base_url=fake.base_url, api_key=fake.api_key, max_retries=0) as client:
            plain = asyncio.create_task(client.responses.create(**ASK))
            chat = asyncio.create_task(client.chat.completions.create(**CHAT))
            await fake.until(lambda requests: len(requests) == 2)
            begun = time.perf_counter()
            await fake.__aexit__(None, None, None)
            assert time.perf_counter() - begun < 1
            for task in (plain, chat):
                with pytest.raises(APIConnectionError):
                    await task
    assert [request.outcome for request in fake.requests] == ["stopped", "stopped"]


async def test_hang_in_a_stream_and_leave(fake: FakeOpenAI, client: AsyncOpenAI) -> None:
    conversation = await client.conversations.create()
    fake.hang_next(after_events=5, path="/responses")
    stream = await client.responses.create(**ASK, stream=True, conversation=conversation.id)
    seen: list[str] = []
    async for event in stream:
        seen.append(event.type)
        if len(seen) == 5:
            break
    await stream.close()
    await fake.until(lambda requests: requests[-1].outcome == "client_gone")

    assert seen[-1] == "response.output_text.delta"
    assert fake.conversation_items(conversation.id) == []
    # The lock went with the client.
    again = await client.responses.create(**ASK, conversation=conversation.id)
    assert again.output_text == "echo 1: hi"


@pytest.mark.parametrize("after_events", [0, 4, 100])
async def test_cut_next_in_a_stream(fake: FakeOpenAI, client: AsyncOpenAI, after_events: int) -> None:
    fake.cut_next(after_events)
    seen = 0
    with pytest.raises(APIConnectionError):
        async for _ in await client.responses.create(**ASK, stream=True):
            seen += 1

    assert seen == min(after_events, 11)
    assert (await fake.until(lambda requests: requests[0].outcome == "cut"))[0].status == 200


async def test_cut_next_in_a_plain_body(fake: FakeOpenAI, client: AsyncOpenAI) -> None:
    fake.cut_next()
    with pytest.raises(APIConnectionError):
        await client.responses.create(**ASK)


@pytest.mark.parametrize("stored", [False, True])
async def test_cut_next_may_have_stored(fake: FakeOpenAI, client: AsyncOpenAI, stored: bool) -> None:
    conversation = await client.conversations.create()
    fake.cut_next(2, stored=stored)
    with pytest.raises(APIConnectionError):
        async for _ in await client.responses.create(**ASK, stream=True, conversation=conversation.id):
            pass
    await fake.until(lambda requests: requests[-1].outcome == "cut")

    assert len(fake.conversation_items(conversation.id)) == (2 if stored else 0)


async def test_cut_next_in_a_chat_stream(fake: FakeOpenAI, client: AsyncOpenAI) -> None:
    fake.cut_next(2)
    with pytest.raises(APIConnectionError):
        async for _ in await client.chat.completions.create(**CHAT, stream=True):
            pass


async def test_slow_delays_and_a_client_may_leave(fake: FakeOpenAI, client: AsyncOpenAI) -> None:
    fake.slow(0.05)
    begun = time.perf_counter()
    await client.responses.create(**ASK)
    assert time.perf_counter() - begun >= 0.05

    fake.slow(60)
    with pytest.raises(APITimeoutError):
        await client.with_options(timeout=READ_TIMEOUT).responses.create(**ASK)
    await fake.until(lambda requests: requests[-1].outcome == "client_gone")
    fake.slow(0)
    await client.responses.create(**ASK)


async def test_slow_events(fake: FakeOpenAI, client: AsyncOpenAI) -> None:
    fake.slow(0.005, each_event=True)
    begun = time.perf_counter()
    kinds = [event.type async for event in await client.responses.create(**ASK, stream=True)]

    assert len(kinds) == 11
    assert time.perf_counter() - begun >= 12 * 0.005


async def test_failed_replies_in_chat(fake: FakeOpenAI, client: AsyncOpenAI) -> None:
    fake.script([failed(message="oops"), failed("half", message="oops")])
    with pytest.raises(InternalServerError, match="oops"):
        await client.chat.completions.create(**CHAT)
    with pytest.raises(APIError, match="oops"):
        async for _ in await client.chat.completions.create(**CHAT, stream=True):
            pass


@pytest.mark.parametrize("group", ["responses", "chat", "conversations"])
async def test_groups_that_a_host_does_not_have(group: str) -> None:
    missing: dict[str, Any] = {group: False}
    async with (
        FakeOpenAI(**missing) as fake,
        AsyncOpenAI(base_url=fake.base_url, api_key=fake.api_key, max_retries=0) as client,
    ):
        calls = {
            "responses": lambda: client.responses.create(**ASK),
            "chat": lambda: client.chat.completions.create(**CHAT),
            "conversations": client.conversations.create,
        }
        with pytest.raises(NotFoundError, match="Invalid URL"):
            await calls.pop(group)()
        for call in calls.values():
            await call()
        assert fake.requests[0].outcome == "refused"


async def test_records(fake: FakeOpenAI, client: AsyncOpenAI) -> None:
    before = time.monotonic()
    await client.responses.create(**ASK, extra_headers={"X-Mine": "1", "Cookie": "secret"}, extra_query={"a": "b"})
    (record,) = fake.requests

    assert (record.method, record.path, record.query) == ("POST", "/v1/responses", {"a": "b"})
    assert record.body == ASK
    assert record.authorized
    assert record.headers["x-mine"] == "1"
    assert not {"authorization", "cookie"} & set(record.headers)
    assert fake.api_key not in str(record)
    assert record.ended_at_s is not None
    assert before <= record.started_at_s <= record.ended_at_s
    assert (record.status, record.outcome) == (200, "answered")
