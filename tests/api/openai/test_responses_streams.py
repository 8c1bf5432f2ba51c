"""Streams of responses: strict clients read them, and go on with them on another replica, in the middle of a run."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from agents import Agent, Model, function_tool
from agents.testing import ScriptedModel
from pydantic import BaseModel

from tests.api.asgi import Frame
from tests.api.openai.response_clients import WEATHER, add, check, client_of, resumed, streamed, wipe
from tests.api.serving import Gate, calls, says, scripted
from tests.fakes.openai import Call, FakeOpenAI, Reasoning

Serve = Callable[..., Any]


class Halting(Model):
    """A model that says half of its first answer and then nothing, until its process is gone."""

    def __init__(self, *steps: Any) -> None:
        self.inner = ScriptedModel(steps)
        self.halted = asyncio.Event()

    async def get_response(self, *args: Any, **kwargs: Any) -> Any:
        return await self.inner.get_response(*args, **kwargs)

    async def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async for event in self.inner.stream_response(*args, **kwargs):
            yield event
            if event.type.endswith("text.delta") and not self.halted.is_set():
                self.halted.set()
                await asyncio.get_running_loop().create_future()


def gated(gate: Gate) -> Agent[Any]:
    return scripted(calls("wait_at_gate"), says("Through."), tools=[function_tool(gate.wait_at_gate)])


def numbers(frames: list[Frame]) -> list[int]:
    return [frame.data["sequence_number"] for frame in frames if frame.event is not None]


async def served_by(serve: Serve, fake: FakeOpenAI, *tools: Any) -> Any:
    endpoint = {"api_key": fake.api_key, "base_url": fake.base_url, "api": "responses", "max_retries": 0}
    return await serve(Agent(name="helper", model="gpt-5", tools=list(tools)), openai=endpoint)


async def test_the_clients_own_accumulator_follows(serve: Serve, fake: FakeOpenAI) -> None:
    fake.script([[Reasoning("Let me add."), Call("add", {"a": 1, "b": 2})], "It is three, I would say."])
    client = client_of(await served_by(serve, fake, add))
    async with client.responses.stream(model="helper", input="1+2?") as stream:
        texts = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert len(texts) > 1
    assert "".join(texts) == final.output_text == "It is three, I would say."
    assert [item.type for item in final.output] == ["reasoning", "mcp_call", "message"]
    whole = await client.responses.retrieve(final.id)
    await check(client, whole)


async def test_structured_output_is_parsed(serve: Serve) -> None:
    class Answer(BaseModel):
        city: str

    client = client_of(await serve(scripted(says('{"city": "Oslo"}'))))
    async with client.responses.stream(model="helper", input="where?", text_format=Answer) as stream:
        final = await stream.get_final_response()
    assert final.output_parsed == Answer(city="Oslo")


async def test_the_callers_tool_is_called_in_a_stream(serve: Serve) -> None:
    client = client_of(await serve(scripted(calls("weather", '{"city":"Oslo"}'), says("Cold."))))
    events = await streamed(client, model="helper", input="weather?", tools=[WEATHER])
    kinds = [event.type for event in events]
    assert kinds[2:6] == [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]
    asked: Any = events[-1]
    given = {"type": "function_call_output", "call_id": asked.response.output[0].call_id, "output": "3 degrees"}
    answered = await streamed(
        client, model="helper", input=[given], previous_response_id=asked.response.id, tools=[WEATHER]
    )
    last: Any = answered[-1]
    assert last.response.output_text == "Cold."
    assert await resumed(client, last.response.id) == answered


async def test_an_approval_in_a_stream(serve: Serve) -> None:
    client = client_of(await serve(scripted(calls("wipe", '{"disk":"c"}'), says("Gone."), tools=[wipe])))
    asked: Any = (await streamed(client, model="helper", input="wipe"))[-1]
    answer = {
        "type": "mcp_approval_response",
        "approval_request_id": asked.response.output[0].id,
        "approve": True,
    }
    events = await streamed(client, model="helper", input=[answer], previous_response_id=asked.response.id)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last: Any = events[-1]
    assert last.response.id == f"{asked.response.id}_2"
    assert last.response.output_text == "Gone."
    await check(client, last.response)


async def test_a_stream_goes_on_at_another_replica_while_the_run_does(serve: Serve) -> None:
    gate = Gate()
    here, there = await serve(gated(gate)), await serve(gated(gate))
    body = {"model": "helper", "input": "go", "stream": True}
    async with here.request("POST", "/v1/responses", json_body=body) as request:
        before = await request.frames_until("response.mcp_call.in_progress")
        await gate.reached.wait()
    response_id = before[0].data["response"]["id"]
    seen = numbers(before)[-1]
    path = f"/v1/responses/{response_id}?stream=true&starting_after={seen}"
    async with there.request("GET", path) as request:
        await request.head()
        gate.open.set()
        after = await request.frames_until("response.completed")
    assert numbers([*before, *after]) == list(range(len(numbers([*before, *after]))))
    told = [frame.data for frame in [*before, *after] if frame.event is not None]
    events = await resumed(client_of(there), response_id)
    assert [event.sequence_number for event in events] == [data["sequence_number"] for data in told]
    assert [event.type for event in events] == [data["type"] for data in told]


async def test_a_number_that_no_event_has_is_refused(serve: Serve) -> None:
    served = await serve(scripted(says("hello")))
    made = await client_of(served).responses.create(model="helper", input="hi")
    for wrong in (-1, 1 << 31, 1 << 70):
        reply = await served.http.get(f"/v1/responses/{made.id}?stream=true&starting_after={wrong}")
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "starting_after")


async def test_a_run_whose_process_is_lost_is_told_on_without_a_gap(serve: Serve) -> None:
    model = Halting(says("Half of an answer"), says("A whole answer"))
    agent = Agent(name="helper", model=model)
    body = {"model": "helper", "input": "go", "stream": True, "background": True}
    here = await serve(agent)
    async with here.request("POST", "/v1/responses", json_body=body) as request:
        before = await request.frames_until("response.output_text.delta")
    response_id = before[0].data["response"]["id"]
    there = await serve(agent)
    run_id = f"run_{response_id.removeprefix('resp_')}"
    here.container.runs._executions.stop(run_id, "hand_back")
    path = f"/v1/responses/{response_id}?stream=true&starting_after={numbers(before)[-1]}"
    async with there.request("GET", path) as request:
        after = await request.frames_until("response.completed")
    everything = [frame.data for frame in [*before, *after] if frame.event is not None]
    assert [data["sequence_number"] for data in everything] == list(range(len(everything)))
    done = [data["item"]["status"] for data in everything if data["type"] == "response.output_item.done"]
    assert done == ["incomplete", "completed"]
    final = await client_of(there).responses.retrieve(response_id)
    assert final.output_text == "A whole answer"
    await check(client_of(there), final)


async def test_a_queued_response_is_known_before_its_turn(serve: Serve) -> None:
    gate = Gate()
    served = await serve(gated(gate))
    client = client_of(served)
    first = await client.responses.with_raw_response.create(model="helper", input="a", background=True)
    await gate.reached.wait()
    body = {
        "model": "helper",
        "input": "b",
        "background": True,
        "stream": True,
        "conversation": first.headers["x-conversation-id"],
    }
    async with served.request("POST", "/v1/responses", json_body=body) as request:
        told = await request.frames_until("response.queued")
        waiting = await client.responses.retrieve(told[0].data["response"]["id"])
        assert waiting.status == "queued"
        gate.open.set()
        await request.frames_until("response.failed")  # the script has no more to say
    assert (await client.responses.retrieve(first.parse().id)).status == "completed"


async def test_silence_is_bridged(serve: Serve) -> None:
    gate = Gate()
    served = await serve(gated(gate), server={"host": "127.0.0.1", "heartbeat_s": 0.05})
    body = {"model": "helper", "input": "go", "stream": True}
    async with served.request("POST", "/v1/responses", json_body=body) as request:
        await request.frames_until("keep-alive")
        gate.open.set()
        await request.frames_until("response.completed")


async def test_deltas_are_padded_on_demand(serve: Serve) -> None:
    client = client_of(await serve(scripted(says("Hello there."))))
    events = await streamed(client, model="helper", input="hi", stream_options={"include_obfuscation": True})
    padded = [event.model_dump() for event in events if event.type.endswith(".delta")]
    assert padded
    assert all((len(event["delta"]) + len(event["obfuscation"])) % 16 == 0 for event in padded)
    assert not any("obfuscation" in event.model_dump() for event in await resumed(client, events[0].response.id))
