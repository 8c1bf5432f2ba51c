"""Streamed chat completions as the official client sees them, and clients that go."""

import asyncio
from collections.abc import Callable
from typing import Any

import openai
import pytest
from agents import Agent, function_tool
from agents.testing import assistant_message
from pydantic import BaseModel

from tests.api.openai.chat_clients import HELLO, WEATHER, chunks_of, client_of, hello, spoken
from tests.api.openai.response_clients import add, wipe
from tests.api.openai.test_responses_streams import Halting
from tests.api.serving import Gate, Served, calls, says, scripted
from tests.fakes.openai import FakeOpenAI

Serve = Callable[..., Any]
USAGE = {"stream_options": {"include_usage": True}}


class Sum(BaseModel):
    """An answer with a form."""

    total: int


async def forgotten(served: Served) -> None:
    """Wait until no conversation is left."""
    async with asyncio.timeout(10):
        while served.rows("SELECT id FROM agent_conversations"):
            await asyncio.sleep(0.005)


async def test_a_text_as_it_is_made(serve: Serve) -> None:
    served = await serve(scripted(says("Hello there.")))
    chunks = await chunks_of(client_of(served), **hello(**USAGE))
    assert spoken(chunks) == "Hello there."
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1] if chunk.choices][-1] == "stop"
    assert (chunks[-1].choices, all(chunk.usage is None for chunk in chunks[:-1])) == ([], True)
    assert chunks[-1].usage is not None
    (row,) = served.rows("SELECT run_id, input_tokens, output_tokens FROM agent_run_usage")
    assert chunks[-1].id == f"chatcmpl-{row['run_id'].removeprefix('run_')}"
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (
        row["input_tokens"],
        row["output_tokens"],
    )
    await forgotten(served)


async def test_the_bytes_of_a_stream(serve: Serve) -> None:
    served = await serve(scripted(says("Hi.")))
    async with served.request("POST", "/v1/chat/completions", json_body=hello(stream=True)) as sent:
        body = await sent.body()
    assert sent.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert sent.headers["x-run-id"].startswith("run_")
    assert "x-conversation-id" not in sent.headers
    frames = body.decode().split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    assert all(frame.startswith("data: {") for frame in frames[:-2])
    assert '"usage"' not in body.decode()


async def test_the_clients_own_helper(serve: Serve) -> None:
    steps = [calls("add", '{"a":1,"b":2}'), calls("weather", '{"city":"Oslo"}', "c2"), says('{"total": 3}')]
    served = await serve(scripted(*steps, tools=[add]))
    client = client_of(served)
    async with client.chat.completions.stream(**hello(tools=[WEATHER])) as stream:
        kinds = [event.type async for event in stream]
        asked = await stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    assert asked.choices[0].finish_reason == "tool_calls"
    (call,) = asked.choices[0].message.tool_calls or []
    assert (call.id, call.function.name, call.function.parsed_arguments) == ("c2", "weather", {"city": "Oslo"})
    async with client.chat.completions.stream(**hello(response_format=Sum, **USAGE)) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.parsed == Sum(total=3)
    assert final.usage is not None


async def test_the_messages_of_a_run(serve: Serve) -> None:
    steps = [[assistant_message("Let me see."), *calls("add", '{"a":1,"b":2}')], says("Three.")]
    served = await serve(scripted(*steps, tools=[add]))
    chunks = await chunks_of(client_of(served), **HELLO)
    assert spoken(chunks) == "Let me see.\n\nThree."
    assert all(not choice.delta.tool_calls for chunk in chunks for choice in chunk.choices)


async def test_text_of_a_real_stream_comes_in_pieces(serve: Serve, fake: FakeOpenAI) -> None:
    endpoint = {"api_key": fake.api_key, "base_url": fake.base_url, "api": "responses", "model": "gpt-4.1-mini"}
    served = await serve(Agent(name="helper"), openai=endpoint)
    asked = hello(messages=[{"role": "user", "content": "echo 3: one two three"}])
    whole = spoken(await chunks_of(client_of(served), **asked))
    assert "three" in whole
    stopped = await chunks_of(client_of(served), **asked, stop="two")
    assert spoken(stopped) == whole[: whole.index("two")]
    assert stopped[-1].choices[0].finish_reason == "stop"
    fake.cut_next(after_events=6)
    with pytest.raises(openai.APIError) as failed:
        await chunks_of(client_of(served), **asked)
    assert failed.value.code == "provider_error"


async def test_several_answers_at_once(serve: Serve) -> None:
    served = await serve(scripted(says("One."), says("Two."), says("Three.")))
    chunks = await chunks_of(client_of(served), **hello(n=3, **USAGE))
    assert {spoken(chunks, choice) for choice in range(3)} == {"One.", "Two.", "Three."}
    ends = [told.index for chunk in chunks for told in chunk.choices if told.finish_reason]
    assert sorted(ends) == [0, 1, 2]
    assert chunks[-1].usage is not None
    assert chunks[-1].choices == []
    (rows,) = served.rows("SELECT SUM(input_tokens + output_tokens) AS total FROM agent_run_usage")
    assert chunks[-1].usage.total_tokens == rows["total"]
    await forgotten(served)


async def test_a_run_that_fails_ends_the_stream_with_an_error(serve: Serve) -> None:
    served = await serve(scripted(calls("nothing")), scripted(calls("wipe", '{"disk":"c"}'), name="w", tools=[wipe]))
    client = client_of(served)
    for changes, code in [({}, "agent_failed"), ({"model": "w"}, "approval_required"), ({"n": 2}, "agent_failed")]:
        chunks: list[Any] = []
        with pytest.raises(openai.APIError) as failed:
            async for chunk in await client.chat.completions.create(**hello(stream=True, **changes)):
                chunks.append(chunk)  # noqa: PERF401 - what came before the error is wanted
        assert failed.value.code == code
        assert chunks[0].choices[0].delta.role == "assistant"
        assert all(choice.finish_reason is None for chunk in chunks for choice in chunk.choices)


async def test_a_client_that_leaves_stops_nothing(serve: Serve) -> None:
    gate = Gate()
    served = await serve(scripted(calls("wait_at_gate"), says("Done."), tools=[function_tool(gate.wait_at_gate)]))
    async with served.request("POST", "/v1/chat/completions", json_body=hello(stream=True)) as sent:
        await sent.chunk()
        await gate.reached.wait()
        sent.leave()
        gate.open.set()
        await forgotten(served)
    (event,) = served.rows("SELECT outcome FROM completion_events")
    assert event["outcome"] == "success"


async def test_a_client_of_several_answers_that_leaves(serve: Serve) -> None:
    gate = Gate()
    script = [calls("wait_at_gate"), calls("wait_at_gate"), says("Done."), says("Done.")]
    served = await serve(scripted(*script, tools=[function_tool(gate.wait_at_gate)]))
    async with served.request("POST", "/v1/chat/completions", json_body=hello(stream=True, n=2)) as sent:
        await gate.reached.wait()
        await sent.chunk()
        sent.leave()
        gate.open.set()
        await forgotten(served)
    events = served.rows("SELECT outcome FROM completion_events")
    assert [event["outcome"] for event in events] == ["success", "success"]


async def test_silence_is_filled_with_comments(serve: Serve) -> None:
    gate = Gate()
    agent = scripted(calls("wait_at_gate"), says("Done."), tools=[function_tool(gate.wait_at_gate)])
    served = await serve(agent, server={"heartbeat_s": 0.05})
    async with served.request("POST", "/v1/chat/completions", json_body=hello(stream=True)) as sent:
        while b": keep-alive\n\n" not in await sent.chunk():
            pass
        gate.open.set()
        body = await sent.body()
    assert b'"content":"Done."' in body
    assert body.endswith(b"data: [DONE]\n\n")


async def test_a_kept_call_names_its_conversation(serve: Serve) -> None:
    served = await serve(scripted(says("One."), says("Two.")))
    async with served.request("POST", "/v1/chat/completions", json_body=hello(stream=True, store=True)) as sent:
        await sent.body()
    conversation = sent.headers["x-conversation-id"]
    joined = hello(metadata={"conversation_id": conversation})
    assert spoken(await chunks_of(client_of(served), **joined)) == "Two."
    assert [item["content"] for item in served.history(conversation) if item.get("role") == "user"] == ["hello"] * 2


async def test_a_process_that_is_lost_after_half_an_answer(serve: Serve) -> None:
    """What was sent cannot be taken back: the stream ends with an error, the run goes on and is forgotten."""
    agent = Agent(name="helper", model=Halting(says("Half of an answer"), says("A whole answer")))
    here = await serve(agent)
    async with here.request("POST", "/v1/chat/completions", json_body=hello(stream=True)) as sent:
        while b'"content":"Half' not in await sent.chunk():
            pass
        await serve(agent)
        here.container.runs._executions.stop(sent.headers["x-run-id"], "hand_back")
        body = await sent.body()
    assert b'"code":"stream_interrupted"' in body.split(b"\n\n")[-2]
    assert b"whole" not in body
    await forgotten(here)
    (event,) = here.rows("SELECT outcome FROM completion_events")
    assert event["outcome"] == "success"


async def test_a_process_that_is_lost_before_anything_was_said(serve: Serve) -> None:
    gate = Gate()
    agent = scripted(calls("wait_at_gate"), says("Through."), tools=[function_tool(gate.wait_at_gate)])
    here = await serve(agent)
    async with here.request("POST", "/v1/chat/completions", json_body=hello(stream=True)) as sent:
        await sent.chunk()
        await gate.reached.wait()
        await serve(agent)
        here.container.runs._executions.stop(sent.headers["x-run-id"], "hand_back")
        gate.open.set()
        body = await sent.body()
    assert b'"content":"Through."' in body
    assert body.endswith(b"data: [DONE]\n\n")
    await forgotten(here)
