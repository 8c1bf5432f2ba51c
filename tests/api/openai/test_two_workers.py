"""Two workers on one PostgreSQL database: what a client begins at one goes on at the other."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from agents import Agent, function_tool
from openai.types.responses import ResponseStreamEvent

from app.bootstrap import upgrade_database
from tests.api.openai.response_clients import check, client_of, resumed
from tests.api.openai.test_responses_streams import Halting, numbers
from tests.api.serving import Gate, Served, calls, says, scripted, serving, settings_of
from tests.databases import PostgresServer

BODY = {"model": "helper", "input": "go", "stream": True}


class Workers:
    """Starts workers on a database."""

    def __init__(self, stack: AsyncExitStack, url: str) -> None:
        self._stack = stack
        self._url = url

    async def start(self, agent: Agent[Any]) -> Served:
        return await self._stack.enter_async_context(serving(settings_of(self._url), agents=[agent]))


@pytest.fixture
async def workers(postgres_server: PostgresServer) -> AsyncIterator[Workers]:
    async with postgres_server.database() as name:
        url = postgres_server.url(name)
        await upgrade_database(settings_of(url))
        async with AsyncExitStack() as stack:
            yield Workers(stack, url)


def gated(gate: Gate) -> Agent[Any]:
    return scripted(calls("wait_at_gate"), says("Through, at last."), tools=[function_tool(gate.wait_at_gate)])


async def told_by(served: Served, response_id: str) -> list[ResponseStreamEvent]:
    """The whole stream, as the strict client reads it."""
    return await resumed(client_of(served), response_id)


async def test_a_stream_is_resumed_at_the_other_worker_in_the_middle(workers: Workers) -> None:
    gate = Gate()
    here, there = await workers.start(gated(gate)), await workers.start(gated(gate))
    async with here.request("POST", "/v1/responses", json_body=BODY) as request:
        before = await request.frames_until("response.mcp_call.in_progress")
        await gate.reached.wait()
    response_id, seen = before[0].data["response"]["id"], numbers(before)[-1]
    path = f"/v1/responses/{response_id}?stream=true&starting_after={seen}"
    # The run is executed by the first worker; both tell the rest of it, each in its own time.
    async with there.request("GET", path) as elsewhere, here.request("GET", path) as back:
        await elsewhere.head()
        await back.head()
        gate.open.set()
        after = await elsewhere.frames_until("response.completed")
        again = await back.frames_until("response.completed")
    assert numbers(after) == numbers(again) == list(range(seen + 1, seen + 1 + len(numbers(after))))
    assert [frame.data for frame in after if frame.event] == [frame.data for frame in again if frame.event]
    events = await told_by(there, response_id)
    assert [event.sequence_number for event in events] == [*numbers(before), *numbers(after)]
    assert events == await told_by(here, response_id)
    await check(client_of(there), await client_of(here).responses.retrieve(response_id))


async def test_a_stream_goes_on_when_its_worker_is_gone(workers: Workers) -> None:
    agent = Agent(name="helper", model=Halting(says("Half of an answer"), says("A whole answer")))
    there = await workers.start(agent)
    async with AsyncExitStack() as life:
        here = await Workers(life, there.container.settings.database.url.get_secret_value()).start(agent)
        async with here.request("POST", "/v1/responses", json_body={**BODY, "background": True}) as request:
            before = await request.frames_until("response.output_text.delta")
    response_id, seen = before[0].data["response"]["id"], numbers(before)[-1]
    async with there.request("GET", f"/v1/responses/{response_id}?stream=true&starting_after={seen}") as request:
        after = await request.frames_until("response.completed")
    assert [*numbers(before), *numbers(after)] == list(range(seen + 1 + len(numbers(after))))
    final = await client_of(there).responses.retrieve(response_id)
    assert final.output_text == "A whole answer"
    await check(client_of(there), final)


async def test_a_background_response_is_read_and_cancelled_at_the_other_worker(workers: Workers) -> None:
    gate = Gate()
    here, there = await workers.start(gated(gate)), await workers.start(gated(gate))
    begun = await client_of(here).responses.create(model="helper", input="go", background=True)
    await gate.reached.wait()
    client = client_of(there)
    assert (await client.responses.retrieve(begun.id)).status == "in_progress"
    await client.responses.cancel(begun.id)
    # The worker that executes it hears of it, and what it tells last says so.
    async with here.request("GET", f"/v1/responses/{begun.id}?stream=true") as request:
        frames = await request.frames_until("response.incomplete")
    assert frames[-1].data["response"]["status"] == "cancelled"
    assert (await client.responses.retrieve(begun.id)).status == "cancelled"
