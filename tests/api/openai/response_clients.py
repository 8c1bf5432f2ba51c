"""The official client over the application, and what every response of it must fulfil."""

from typing import Any

from agents import function_tool
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseStreamEvent

from tests.api.serving import Served

WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "description": "Tell the weather.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


@function_tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@function_tool(needs_approval=True)
def wipe(disk: str) -> str:
    """Wipe a disk."""
    return f"wiped {disk}"


def client_of(served: Served, key: str = "none") -> AsyncOpenAI:
    """The official client; it refuses what is not exactly as its types say."""
    return AsyncOpenAI(
        base_url="http://localhost:8000/v1",
        api_key=key,
        http_client=served.http,
        max_retries=0,
        _strict_response_validation=True,
    )


async def streamed(client: AsyncOpenAI, **request: Any) -> list[ResponseStreamEvent]:
    """Create a response and read all of its events."""
    return [event async for event in await client.responses.create(stream=True, **request)]


async def resumed(client: AsyncOpenAI, response_id: str, **query: Any) -> list[ResponseStreamEvent]:
    """Read the events of a response that exists."""
    return [event async for event in await client.responses.retrieve(response_id, stream=True, **query)]


async def check(client: AsyncOpenAI, response: Response) -> list[ResponseStreamEvent]:
    """A response is the same however it is asked for, and its stream goes on after any number."""
    assert await client.responses.retrieve(response.id) == response
    events = await resumed(client, response.id)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last: Any = events[-1]
    assert last.response == response
    for number in range(len(events)):
        assert await resumed(client, response.id, starting_after=number) == events[number + 1 :]
    return events
