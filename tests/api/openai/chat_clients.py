"""The official client for chat completions, and what tests ask with it."""

from typing import Any

from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk

from tests.api.openai.response_clients import client_of

__all__ = ["HELLO", "WEATHER", "chunks_of", "client_of", "hello", "spoken"]

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}


def hello(**changes: Any) -> dict[str, Any]:
    """A request for the agent `helper`."""
    return {"model": "helper", "messages": [{"role": "user", "content": "hello"}], **changes}


HELLO = hello()


async def chunks_of(client: AsyncOpenAI, **request: Any) -> list[ChatCompletionChunk]:
    """Create a completion and read all of its chunks."""
    return [chunk async for chunk in await client.chat.completions.create(stream=True, **request)]


def spoken(chunks: list[ChatCompletionChunk], choice: int = 0) -> str:
    """The text of one of the choices."""
    return "".join(told.delta.content or "" for chunk in chunks for told in chunk.choices if told.index == choice)
