"""The conversations of the fake: eight routes, pages, and what a response does to them."""

from __future__ import annotations

from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError

from tests.fakes.openai import Call, FakeOpenAI, failed

MODEL = "gpt-4.1"


def user(text: str) -> Any:
    return {"role": "user", "content": text}


async def test_life_of_a_conversation(fake: FakeOpenAI, client: AsyncOpenAI) -> None:
    made = await client.conversations.create(metadata={"a": "1"}, items=[user("first")])
    changed = await client.conversations.update(made.id, metadata={"b": "2"})
    found = await client.conversations.retrieve(made.id)
    deleted = await client.conversations.delete(made.id)

    assert made.id.startswith("conv_")
    assert (made.metadata, changed.metadata, found.metadata) == ({"a": "1"}, {"b": "2"}, {"b": "2"})
    assert (deleted.id, deleted.deleted) == (made.id, True)
    for call in (client.conversations.retrieve, client.conversations.delete, client.conversations.items.list):
        with pytest.raises(NotFoundError):
            await call(made.id)
    assert fake.conversation_items(made.id) == []


async def test_items_are_paged_both_ways(client: AsyncOpenAI) -> None:
    made = await client.conversations.create(items=[user(str(number)) for number in range(5)])
    ascending = await client.conversations.items.list(made.id, order="asc", limit=2)
    rest = [item async for item in client.conversations.items.list(made.id, order="asc", after=ascending.last_id)]
    newest = await client.conversations.items.list(made.id)
    empty = await client.conversations.items.list((await client.conversations.create()).id)

    assert [item.content[0].text for item in [*ascending.data, *rest]] == list("01234")  # type: ignore[union-attr]
    assert ascending.has_more
    assert not newest.has_more
    assert [item.content[0].text for item in newest.data] == list("43210")  # type: ignore[union-attr]
    assert (empty.data, empty.has_more) == ([], False)


async def test_one_item_is_read_and_deleted(client: AsyncOpenAI) -> None:
    made = await client.conversations.create()
    page = await client.conversations.items.create(made.id, items=[user("a"), user("b")])
    item = page.data[0]
    assert item.type == "message"
    found = await client.conversations.items.retrieve(item.id, conversation_id=made.id)
    left = await client.conversations.items.delete(item.id, conversation_id=made.id)

    assert found == item
    assert left.id == made.id
    for call in (client.conversations.items.retrieve, client.conversations.items.delete):
        with pytest.raises(NotFoundError):
            await call(item.id, conversation_id=made.id)


@pytest.mark.parametrize(
    ("items", "code"),
    [
        ([user("x")] * 21, "array_above_max_length"),
        ([{"type": "reasoning", "summary": []}], "invalid_item"),
        ([{"type": "zork"}], "invalid_value"),
        ([{**user("x"), "id": "msg_1"}] * 2, None),
        ("x", "invalid_type"),
    ],
)
async def test_bad_items_are_refused_and_none_is_kept(
    fake: FakeOpenAI, client: AsyncOpenAI, items: Any, code: str | None
) -> None:
    made = await client.conversations.create()
    with pytest.raises(BadRequestError) as caught:
        await client.conversations.items.create(made.id, items=items)

    assert caught.value.code == code
    assert fake.conversation_items(made.id) == []


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 101}, {"limit": "x"}, {"order": "up"}])
async def test_bad_pages_are_refused(client: AsyncOpenAI, query: dict[str, Any]) -> None:
    made = await client.conversations.create()
    with pytest.raises(BadRequestError):
        await client.conversations.items.list(made.id, extra_query=query)


async def test_unknown_parameters_are_refused(client: AsyncOpenAI) -> None:
    made = await client.conversations.create()
    extra: Any = {"extra_body": {"foo": 1}}
    for call in (
        client.conversations.create(**extra),
        client.conversations.update(made.id, metadata={}, **extra),
        client.conversations.items.create(made.id, items=[], **extra),
    ):
        with pytest.raises(BadRequestError, match="Unknown parameter: 'foo'"):
            await call


async def test_responses_read_and_extend_it(fake: FakeOpenAI, client: AsyncOpenAI) -> None:
    made = await client.conversations.create(items=[user("one")])
    second = await client.responses.create(model=MODEL, input="two", conversation=made.id)
    third = await client.responses.create(model=MODEL, input="three", conversation={"id": made.id}, store=False)

    assert (second.output_text, third.output_text) == ("echo 2: two", "echo 3: three")
    assert third.conversation is not None and third.conversation.id == made.id
    stored = [item async for item in client.conversations.items.list(made.id, order="asc")]
    texts = [item.content[0].text for item in stored]  # type: ignore[union-attr]
    assert texts == ["one", "two", "echo 2: two", "three", "echo 3: three"]
    assert stored[2].id == second.output[0].id


async def test_a_failed_response_adds_nothing(fake: FakeOpenAI, client: AsyncOpenAI) -> None:
    made = await client.conversations.create()
    fake.script([failed("half", code="rate_limit_exceeded"), Call("add", call_id="call_1")])
    broken = await client.responses.create(model=MODEL, input="one", conversation=made.id)
    await client.responses.create(model=MODEL, input="two", conversation=made.id)

    assert (broken.status, broken.error and broken.error.code) == ("failed", "rate_limit_exceeded")
    assert [item["type"] for item in fake.conversation_items(made.id)] == ["message", "function_call"]


async def test_only_one_response_at_a_time(fake: FakeOpenAI, client: AsyncOpenAI) -> None:
    made = await client.conversations.create()
    fake.hang_next(after_events=3, path="/responses")
    stream = await client.responses.create(model=MODEL, input="one", conversation=made.id, stream=True)
    async with stream:
        with pytest.raises(BadRequestError) as caught:
            await client.responses.create(model=MODEL, input="two", conversation=made.id)
        fake.release()
        kinds = [event.type async for event in stream]

    assert (caught.value.code, caught.value.param) == ("conversation_locked", "conversation")
    assert kinds[-1] == "response.completed"
    after = await client.responses.create(model=MODEL, input="two", conversation=made.id)
    assert after.output_text == "echo 2: two"
