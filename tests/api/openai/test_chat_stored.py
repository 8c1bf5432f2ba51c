"""Completions that were kept, as the official client finds, describes and deletes them."""

from collections.abc import Callable
from typing import Any

import openai
import pytest
from agents.testing import assistant_message

from app.domain.models.access import NewKey
from tests.api.openai.chat_clients import HELLO, WEATHER, client_of, hello, spoken
from tests.api.openai.response_clients import add
from tests.api.serving import Served, calls, says, scripted

Serve = Callable[..., Any]


async def secret_of(served: Served, organization_id: str) -> str:
    return (await served.container.keys.create(NewKey(organization_id=organization_id, name="k"))).secret


async def test_a_kept_completion_is_told_again(serve: Serve) -> None:
    steps = [
        [assistant_message("Let me see."), *calls("add", '{"a":1,"b":2}')],
        [assistant_message("I ask for more."), *calls("weather", '{"city":"Oslo"}', "c2")],
    ]
    served = await serve(scripted(*steps, tools=[add]))
    client = client_of(served)
    asked = hello(tools=[WEATHER], store=True, stop=[" for"], metadata={"ticket": "7"})
    made = await client.chat.completions.create(**asked)
    assert made.choices[0].message.content == "Let me see.\n\nI ask"
    found = await client.chat.completions.retrieve(made.id)
    assert found.model_dump(exclude={"metadata"}) == made.model_dump(exclude={"metadata"})
    assert found.model_dump()["metadata"] == {"ticket": "7"}
    updated = await client.chat.completions.update(made.id, metadata={"ticket": "8"})
    assert updated.model_dump()["metadata"] == {"ticket": "8"}
    assert (await client.chat.completions.retrieve(made.id)) == updated
    assert (await client.chat.completions.update(made.id, metadata=None)).model_dump()["metadata"] == {}
    deleted = await client.chat.completions.delete(made.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (made.id, True, "chat.completion.deleted")
    assert served.rows("SELECT id FROM agent_conversations") == []
    with pytest.raises(openai.NotFoundError) as gone:
        await client.chat.completions.retrieve(made.id)
    assert (gone.value.code, gone.value.param) == ("chat_completion_not_found", "completion_id")


async def test_a_streamed_one_and_its_messages(serve: Serve) -> None:
    served = await serve(scripted(says("Hello there.")))
    client = client_of(served)
    picture: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}
    file: Any = {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA==", "filename": "a.pdf"}}
    call: Any = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages: list[Any] = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "See:"}, picture, file]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "3 C"},
        {"role": "assistant", "content": "Well", "refusal": "no"},
        {"role": "user", "content": "And?"},
    ]
    stream = await client.chat.completions.create(model="helper", messages=messages, store=True, stream=True)
    chunks = [chunk async for chunk in stream]
    found = await client.chat.completions.retrieve(chunks[0].id)
    assert found.choices[0].message.content == spoken(chunks) == "Hello there."
    path = f"/v1/chat/completions/{found.id}/messages"
    page = (await served.http.get(path)).json()
    assert [{name: value for name, value in one.items() if value is not None} for one in page["data"]] == [
        {"id": f"{found.id}-0", "role": "system", "content": "Be short."},
        {
            "id": f"{found.id}-1",
            "role": "user",
            "content": "See:",
            "content_parts": [{"type": "text", "text": "See:"}, picture, file],
        },
        {"id": f"{found.id}-2", "role": "assistant", "tool_calls": [call]},
        {"id": f"{found.id}-3", "role": "tool", "content": "3 C", "tool_call_id": "c1"},
        {"id": f"{found.id}-4", "role": "assistant", "content": "Well", "refusal": "no"},
        {"id": f"{found.id}-5", "role": "user", "content": "And?"},
    ]
    last = (await served.http.get(path, params={"order": "desc", "limit": 1})).json()
    assert (last["first_id"], last["has_more"]) == (f"{found.id}-5", True)


async def test_one_of_several_in_a_conversation_is_deleted_alone(serve: Serve) -> None:
    served = await serve(scripted(says("One."), says("Two.")))
    client = client_of(served)
    first = await client.chat.completions.with_raw_response.create(**hello(store=True))
    joined: Any = {"metadata": {"conversation_id": first.headers["x-conversation-id"]}}
    second = await client.chat.completions.create(**hello(**joined))
    await client.chat.completions.delete(first.parse().id)
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.retrieve(first.parse().id)
    assert (await client.chat.completions.retrieve(second.id)).choices[0].message.content == "Two."
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.update(second.id, **joined)
    assert refused.value.param == "metadata.conversation_id"
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.update(second.id, metadata={"a": "x" * 513})
    assert refused.value.param == "metadata.a"


async def test_what_is_not_a_kept_completion_is_not_found(serve: Serve) -> None:
    served = await serve(scripted(says("One."), calls("nothing"), says("Two.")))
    mine = client_of(served, await secret_of(served, "acme"))
    theirs = client_of(served, await secret_of(served, "other"))
    kept = await mine.chat.completions.create(**hello(store=True))
    with pytest.raises(openai.InternalServerError) as failed:
        await mine.chat.completions.create(**hello(store=True))
    broken = failed.value.response.json()["run_id"].replace("run_", "chatcmpl-")
    response = await mine.responses.create(model="helper", input="hi")
    ids = [broken, response.id.replace("resp_", "chatcmpl-"), f"chatcmpl-{'0' * 32}", "chatcmpl-1", "x"]
    for client, ids_of_nobody in [(mine, ids), (theirs, [kept.id])]:
        for completion_id in ids_of_nobody:
            for call in (client.chat.completions.retrieve, client.chat.completions.delete):
                with pytest.raises(openai.NotFoundError) as unknown:
                    await call(completion_id)
                assert unknown.value.code == "chat_completion_not_found"
            with pytest.raises(openai.NotFoundError):
                await client.chat.completions.update(completion_id, metadata={})
    assert await mine.chat.completions.retrieve(kept.id)
    with pytest.raises(openai.BadRequestError):
        await mine.chat.completions.messages.list(kept.id, limit=0)


async def test_a_call_that_is_not_kept_is_not_found(serve: Serve) -> None:
    served = await serve(scripted(says("One.")))
    made = await client_of(served).chat.completions.create(**HELLO)
    with pytest.raises(openai.NotFoundError):
        await client_of(served).chat.completions.retrieve(made.id)
