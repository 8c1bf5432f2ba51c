"""The fake speaks the wire as the official client reads it, plain and streamed, and its model remembers."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any

import httpx2
import pytest
from openai import APIConnectionError, AsyncOpenAI
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from tests.fakes.openai import Ask, Call, FakeOpenAI, Reasoning, Refusal, Reply, Text, Usage, failed, incomplete

MODEL = "gpt-4.1"
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ADD: dict[str, Any] = {
    "type": "function",
    "name": "add",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
}
CHAT_ADD: dict[str, Any] = {"type": "function", "function": {k: v for k, v in ADD.items() if k != "type"}}
ANSWER_FORMAT: dict[str, Any] = {
    "type": "json_schema",
    "name": "answer",
    "strict": True,
    "schema": {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "kind": {"enum": ["a", "b"]},
            "score": {"type": "number", "minimum": 2},
            "tags": {"type": "array", "items": {"$ref": "#/$defs/Tag"}, "minItems": 1},
            "when": {"type": ["string", "null"]},
        },
        "required": ["text", "kind", "score", "tags", "when"],
        "additionalProperties": False,
        "$defs": {"Tag": {"type": "string", "format": "date"}},
    },
}


async def raw_events(fake: FakeOpenAI, path: str, body: dict[str, Any]) -> list[tuple[str | None, str]]:
    """The SSE frames as they are on the wire: (event, data)."""
    async with httpx2.AsyncClient() as http:
        headers = {"authorization": f"Bearer {fake.api_key}"}
        reply = await http.post(f"{fake.base_url}{path}", json={**body, "stream": True}, headers=headers)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/event-stream")
    frames: list[tuple[str | None, str]] = []
    for block in reply.text.removesuffix("\n\n").split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        frames.append((lines.get("event"), lines["data"]))
    return frames


async def response_events(fake: FakeOpenAI, **body: Any) -> list[dict[str, Any]]:
    """The events of a streamed response, each checked against the published type."""
    frames = await raw_events(fake, "/responses", {"model": MODEL, **body})
    events = [json.loads(data) for _, data in frames]
    assert [name for name, _ in frames] == [event["type"] for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        EVENT.validate_python(event)
    return events


# --- responses ---


async def test_response_echoes_and_counts(client: AsyncOpenAI) -> None:
    response = await client.responses.create(model=MODEL, input="hello big world", instructions="be kind")

    assert response.output_text == "echo 1: hello big world"
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (5, 5, 10)
    assert response.usage.input_tokens_details.cached_tokens == 0
    assert response.usage.input_tokens_details.cache_write_tokens == 5
    assert (response.status, response.instructions, response.temperature) == ("completed", "be kind", 1.0)


async def test_usage_counts_what_the_model_has_read_before_as_cached(client: AsyncOpenAI) -> None:
    first = await client.responses.create(model=MODEL, input="one two")
    second = await client.responses.create(model=MODEL, input="three", previous_response_id=first.id)

    assert second.usage is not None
    # "one two" and "echo 1: one two" are cached, "three" is new.
    assert second.usage.input_tokens_details.cached_tokens == 6
    assert second.usage.input_tokens_details.cache_write_tokens == 1
    assert second.usage.input_tokens == 7


async def test_previous_response_chains(client: AsyncOpenAI) -> None:
    first = await client.responses.create(model=MODEL, input="one")
    second = await client.responses.create(model=MODEL, input="two", previous_response_id=first.id)
    third = await client.responses.create(model=MODEL, input="three", previous_response_id=second.id)

    assert third.output_text == "echo 3: three"
    assert third.previous_response_id == second.id


async def test_response_is_retrieved_as_it_was_sent(client: AsyncOpenAI) -> None:
    made = await client.responses.create(model=MODEL, input="one", metadata={"a": "b"})
    found = await client.responses.retrieve(made.id)

    assert found.model_dump() == made.model_dump()


async def test_streamed_text_has_the_real_order(fake: FakeOpenAI) -> None:
    events = await response_events(fake, input="hi")

    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert "".join(event["delta"] for event in events if event["type"].endswith("delta")) == "echo 1: hi"
    assert (events[0]["response"]["output"], events[0]["response"]["usage"]) == ([], None)
    assert events[2]["item"]["content"] == []
    assert events[-1]["response"]["output"] == [events[-2]["item"]]


async def test_streamed_calls_carry_name_and_arguments(fake: FakeOpenAI) -> None:
    events = await response_events(fake, input='call:add {"a": 1, "b": 2} call:add {"a": 3, "b": 4}', tools=[ADD])

    added = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    done = [event for event in events if event["type"] == "response.function_call_arguments.done"]
    assert [(item["arguments"], item["status"]) for item in added] == [("", "in_progress")] * 2
    assert [event["name"] for event in done] == ["add", "add"]
    assert [json.loads(event["arguments"]) for event in done] == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    for index, event in enumerate(done):
        deltas = [e["delta"] for e in events if e["type"].endswith("arguments.delta") and e["output_index"] == index]
        assert "".join(deltas) == event["arguments"]
        assert len(deltas) > 1


async def test_streamed_reasoning_and_refusal(fake: FakeOpenAI) -> None:
    fake.script([[Reasoning("let me see"), Refusal("I cannot do that")]])
    wanted = {"reasoning": {"effort": "low", "summary": "auto"}, "include": ["reasoning.encrypted_content"]}
    events = await response_events(fake, input="hi", **wanted)

    kinds = [event["type"].removeprefix("response.") for event in events]
    first = kinds.index("reasoning_summary_part.added")
    last = kinds.index("reasoning_summary_part.done")
    assert kinds[first:last] == [
        "reasoning_summary_part.added",
        *["reasoning_summary_text.delta"] * 3,
        "reasoning_summary_text.done",
    ]
    assert [kind for kind in kinds if kind.startswith("refusal")] == ["refusal.delta"] * 4 + ["refusal.done"]
    reasoning, message = events[-1]["response"]["output"]
    assert reasoning["summary"] == [{"type": "summary_text", "text": "let me see"}]
    assert reasoning["encrypted_content"]
    assert message["content"] == [{"type": "refusal", "refusal": "I cannot do that"}]
    assert events[-1]["response"]["usage"]["output_tokens_details"]["reasoning_tokens"] == 3


async def test_streamed_incomplete_and_failed_end_so(fake: FakeOpenAI) -> None:
    fake.script([incomplete("cut here", reason="content_filter"), failed("half", code="server_error", message="oops")])
    cut = (await response_events(fake, input="hi"))[-1]
    broken = (await response_events(fake, input="hi"))[-1]

    assert cut["type"] == "response.incomplete"
    assert cut["response"]["incomplete_details"] == {"reason": "content_filter"}
    assert cut["response"]["output"][0]["status"] == "incomplete"
    assert broken["type"] == "response.failed"
    assert broken["response"]["error"] == {"code": "server_error", "message": "oops"}
    assert broken["response"]["usage"] is None


async def test_output_limit_cuts_the_answer(client: AsyncOpenAI) -> None:
    response = await client.responses.create(model=MODEL, input="word " * 40, max_output_tokens=16)

    assert response.status == "incomplete"
    assert len(response.output_text.split()) == 16


async def test_model_calls_and_then_tells_the_output(client: AsyncOpenAI) -> None:
    history: list[Any] = [{"role": "user", "content": 'please call:add {"a": 1, "b": 2} and call:unknown {}'}]
    first = await client.responses.create(model=MODEL, input=history, tools=[ADD])  # type: ignore[list-item]
    (call,) = first.output
    assert call.type == "function_call"
    history += [
        call.model_dump(exclude_none=True),
        {"type": "function_call_output", "call_id": call.call_id, "output": "it is 3"},
    ]
    second = await client.responses.create(model=MODEL, input=history, tools=[ADD])  # type: ignore[list-item]

    assert (call.name, json.loads(call.arguments)) == ("add", {"a": 1, "b": 2})
    assert second.output_text == "it is 3"


@pytest.mark.parametrize(
    ("choice", "text", "called"),
    [
        ("none", 'call:add {"a": 1, "b": 2}', []),
        ("required", "no call in this", [{"a": 0, "b": 0}]),
        ({"type": "function", "name": "add"}, "nor in this", [{"a": 0, "b": 0}]),
    ],
)
async def test_tool_choice_is_obeyed(client: AsyncOpenAI, choice: Any, text: str, called: list[Any]) -> None:
    response = await client.responses.create(
        model=MODEL,
        input=text,
        tools=[ADD],  # type: ignore[list-item]
        tool_choice=choice,
    )

    assert [json.loads(item.arguments) for item in response.output if item.type == "function_call"] == called


async def test_one_call_at_a_time_when_parallel_calls_are_off(client: AsyncOpenAI) -> None:
    response = await client.responses.create(
        model=MODEL,
        input='call:add {"a": 1, "b": 2} call:add {}',
        tools=[ADD],  # type: ignore[list-item]
        parallel_tool_calls=False,
    )

    assert len(response.output) == 1


async def test_json_schema_is_filled(client: AsyncOpenAI) -> None:
    response = await client.responses.create(model=MODEL, input="hi", text={"format": ANSWER_FORMAT})  # type: ignore[typeddict-item]

    assert json.loads(response.output_text) == {
        "text": "echo 1: hi",
        "kind": "a",
        "score": 2,
        "tags": ["2026-01-01"],
        "when": None,
    }


async def test_reasoning_is_shown_when_asked_for(client: AsyncOpenAI) -> None:
    response = await client.responses.create(model="gpt-5", input="hi", reasoning={"effort": "low", "summary": "auto"})
    plain = await client.responses.create(model="gpt-5", input="hi", reasoning={"effort": "none"})

    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert [item.type for item in plain.output] == ["message"]


# --- scripts ---


async def test_script_is_told_in_order_and_then_the_brain_speaks(fake: FakeOpenAI, client: AsyncOpenAI) -> None:
    def shout(ask: Ask) -> str:
        return ask.user_texts[-1].upper()

    fake.script(["one", Call("add", {"a": 1}, call_id="call_mine"), shout])
    fake.script([Reply((Text("paid"),), usage=Usage(input=10, output=20, cached=3, cache_write=4, reasoning=5))])
    replies = [await client.responses.create(model=MODEL, input="hi") for _ in range(5)]

    assert [reply.output_text for reply in replies] == ["one", "", "HI", "paid", "echo 1: hi"]
    assert replies[1].output[0].model_dump()["call_id"] == "call_mine"
    assert replies[3].usage is not None
    assert replies[3].usage.model_dump(exclude_none=True) == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 4},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 30,
    }
    assert fake.scripted_left == 0


# --- chat completions ---


async def test_chat_echoes_calls_and_counts(client: AsyncOpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": 'call:add {"a": 1, "b": 2}'}]
    first = await client.chat.completions.create(model=MODEL, messages=messages, tools=[CHAT_ADD])  # type: ignore[list-item]
    call = first.choices[0].message.tool_calls[0]  # type: ignore[index]
    messages += [
        first.choices[0].message.model_dump(exclude_none=True, exclude={"annotations"}),
        {"role": "tool", "tool_call_id": call.id, "content": "it is 3"},
    ]
    second = await client.chat.completions.create(model=MODEL, messages=messages, tools=[CHAT_ADD])  # type: ignore[list-item]

    assert first.choices[0].finish_reason == "tool_calls"
    assert second.choices[0].message.content == "it is 3"
    assert second.usage is not None and second.usage.prompt_tokens_details is not None
    assert second.usage.completion_tokens == 3
    assert second.usage.prompt_tokens_details.cached_tokens == 10


async def test_chat_stream_has_the_real_order(fake: FakeOpenAI) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": 'call:add {"a": 1, "b": 2}'}], "tools": [CHAT_ADD]}
    frames = await raw_events(fake, "/chat/completions", {**body, "stream_options": {"include_usage": True}})
    assert frames[-1] == (None, "[DONE]")
    chunks = [json.loads(data) for _, data in frames[:-1]]
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)

    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    calls = [chunk["choices"][0]["delta"]["tool_calls"][0] for chunk in chunks[1:-2]]
    assert (calls[0]["index"], calls[0]["type"], calls[0]["function"]["name"]) == (0, "function", "add")
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == {"a": 1, "b": 2}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + [
        "tool_calls"
    ]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] > 0


async def test_chat_stream_has_no_usage_unless_asked(fake: FakeOpenAI) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
    frames = await raw_events(fake, "/chat/completions", body)
    chunks = [json.loads(data) for _, data in frames[:-1]]

    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "echo 1: hi"


async def test_chat_incomplete_refusal_and_schema(fake: FakeOpenAI, client: AsyncOpenAI) -> None:
    fake.script([incomplete("cut"), incomplete("cut", reason="content_filter"), Refusal("no")])
    ask: Any = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
    replies = [(await client.chat.completions.create(**ask)).choices[0] for _ in range(3)]
    schema = {key: value for key, value in ANSWER_FORMAT.items() if key != "type"}
    shaped = await client.chat.completions.create(**ask, response_format={"type": "json_schema", "json_schema": schema})

    assert [reply.finish_reason for reply in replies] == ["length", "content_filter", "stop"]
    assert (replies[2].message.refusal, replies[2].message.content) == ("no", None)
    assert json.loads(shaped.choices[0].message.content or "")["text"] == "echo 1: hi"


# --- models and embeddings ---


async def test_models_and_embeddings(fake: FakeOpenAI, client: AsyncOpenAI) -> None:
    models = [model.id async for model in client.models.list()]
    embedding: Any = {"model": "text-embedding-3-small", "dimensions": 8}
    # The client asks for base64 by default, and then its own strict mode refuses what it asked for.
    async with AsyncOpenAI(base_url=fake.base_url, api_key=fake.api_key, max_retries=0) as lenient:
        packed = await lenient.embeddings.create(input=["one two", "three"], **embedding)
    plain = await client.embeddings.create(input="one two", encoding_format="float", **embedding)

    assert MODEL in models
    assert (await client.models.retrieve(MODEL)).id == MODEL
    assert packed.usage.prompt_tokens == 3
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
    assert packed.data[0].embedding != packed.data[1].embedding
    assert sum(number**2 for number in plain.data[0].embedding) == pytest.approx(1)
    formats = [request.body["encoding_format"] for request in fake.requests if request.path == "/v1/embeddings"]
    assert formats == ["base64", "float"]


# --- life ---


async def test_starts_fast_and_leaves_nothing_behind() -> None:
    threads = threading.active_count()
    begun = time.perf_counter()
    async with FakeOpenAI() as fake:
        assert time.perf_counter() - begun < 0.5
        async with AsyncOpenAI(base_url=fake.base_url, api_key=fake.api_key, max_retries=0) as client:
            await client.models.list()

    assert threading.active_count() <= threads + 1  # the loop's helper thread stays
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(fake.base_url.split(":")[2].split("/")[0]))).close()
    async with AsyncOpenAI(base_url=fake.base_url, api_key=fake.api_key, max_retries=0) as client:
        with pytest.raises(APIConnectionError):
            await client.models.list()


def test_two_servers_share_nothing_and_work_from_sync_code() -> None:
    with FakeOpenAI() as one, FakeOpenAI(models=["m"]) as two:
        for server in (one, two):
            headers = {"authorization": f"Bearer {server.api_key}"}
            assert httpx2.get(f"{server.base_url}/models", headers=headers).status_code == 200
        assert one.base_url != two.base_url
        assert (one.count("/models"), two.count("/v1/models", method="POST")) == (1, 0)
    with pytest.raises(RuntimeError, match="has not been started"):
        _ = FakeOpenAI().base_url
