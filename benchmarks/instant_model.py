"""Models that answer at once, so that what is left is what everything around the model costs."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from itertools import count
from typing import Any

from agents import Agent, Model, ModelResponse, OpenAIResponsesModel, Usage
from agents.items import TResponseStreamEvent
from openai import AsyncOpenAI
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseTextDeltaEvent,
    ResponseUsage,
)

MODEL_NAME = "gpt-5.4-mini"
"""A name with a price, so that ours looks one up as it would for a real call."""
ANSWER = (
    "The river rises in the hills behind the town, passes three mills and a lock, and joins the sea at low tide. " * 2
)


DELTAS = 500
"""Text deltas of one streamed answer."""
FEW_DELTAS = 10
"""Of a short one: the difference between the two is what deltas cost, and the rest what a run costs."""
AT_ONCE, PAUSING, PACED, ENDPOINT = "at-once", "pausing", "paced", "endpoint"
"""The names of the streaming agents."""
SHORT = "short-"
"""Before the name of one that answers with few deltas."""
LITTLE = "You write little."
"""By which the endpoint knows that it should."""
PACED_DELTAS = 300
SERVER_OPTIONS: dict[str, Any] = {
    "loop": "uvloop",
    "http": "httptools",
    "host": "127.0.0.1",
    "timeout_keep_alive": 600,  # a side waits while the other one is measured
}


def streaming_agents() -> list[Agent[Any]]:
    """Return agents whose model never suspends, lets the loop turn before every event, or takes its time.

    With BENCHMARK_ENDPOINT set, one more: the SDK's own model, which reads its answer from there over HTTP.
    """
    models: dict[str, Model] = {
        AT_ONCE: StreamingModel(deltas=DELTAS),
        SHORT + AT_ONCE: StreamingModel(deltas=FEW_DELTAS),
        PAUSING: StreamingModel(deltas=DELTAS, pause_s=0),
        SHORT + PAUSING: StreamingModel(deltas=FEW_DELTAS, pause_s=0),
        PACED: StreamingModel(deltas=PACED_DELTAS, pause_s=0.01),
    }
    if endpoint := os.environ.get("BENCHMARK_ENDPOINT"):
        client = AsyncOpenAI(base_url=endpoint, api_key="sk-benchmark", max_retries=0, timeout=120)
        models[ENDPOINT] = models[SHORT + ENDPOINT] = OpenAIResponsesModel(MODEL_NAME, client)
    return [
        Agent(name=name, instructions=LITTLE if name.startswith(SHORT) else "You write.", model=model)
        for name, model in models.items()
    ]


def message_of(text: str) -> ResponseOutputMessage:
    """Return an assistant's message."""
    content = [ResponseOutputText(text=text, type="output_text", annotations=[], logprobs=[])]
    return ResponseOutputMessage(
        id="msg_0a1b2c3d4e5f60718293a4b5c6d7e8f9", content=content, role="assistant", status="completed", type="message"
    )


class InstantModel(Model):
    """Answers with one message; with `tool`, first with one call of it."""

    def __init__(self, tool: str | None = None) -> None:
        self.model = MODEL_NAME
        self._tool = tool
        self._numbers = count(1)
        self._message = message_of(ANSWER)

    async def get_response(self, system_instructions: Any, input: Any, *_: Any, **__: Any) -> ModelResponse:  # noqa: A002
        output: Any = self._message
        if self._tool is not None and input[-1].get("type") != "function_call_output":
            output = ResponseFunctionToolCall(
                call_id=f"call_{next(self._numbers)}",
                name=self._tool,
                arguments='{"city":"Rome"}',
                type="function_call",
            )
        usage = Usage(requests=1, input_tokens=1_000, output_tokens=40, total_tokens=1_040)
        return ModelResponse(output=[output], usage=usage, response_id="resp_1")

    def stream_response(self, *_: Any, **__: Any) -> AsyncIterator[TResponseStreamEvent]:
        raise NotImplementedError


class CountedModel(Model):
    """Calls a tool `calls` times, one call an answer, and then says something; keeps no state of its own."""

    def __init__(self, tool: str, calls: int) -> None:
        self.model = MODEL_NAME
        self._tool = tool
        self._calls = calls
        self._message = message_of(ANSWER)

    async def get_response(self, system_instructions: Any, input: Any, *_: Any, **__: Any) -> ModelResponse:  # noqa: A002
        done = sum(item.get("type") == "function_call_output" for item in input)
        output: Any = self._message
        if done < self._calls:
            arguments = json.dumps({"number": done})
            output = ResponseFunctionToolCall(
                call_id=f"call_{done}", name=self._tool, arguments=arguments, type="function_call"
            )
        usage = Usage(requests=1, input_tokens=1_000, output_tokens=40, total_tokens=1_040)
        return ModelResponse(output=[output], usage=usage, response_id=f"resp_{done}")

    def stream_response(self, *_: Any, **__: Any) -> AsyncIterator[TResponseStreamEvent]:
        raise NotImplementedError


class StreamingModel(Model):
    """Streams a prebuilt answer in `deltas` pieces, `pause_s` apart; 0: the loop gets a turn, None: not even that."""

    def __init__(self, *, deltas: int, pause_s: float | None = None) -> None:
        self.model = MODEL_NAME
        self._pause_s = pause_s
        self._events = _events(["word "] * deltas)

    async def get_response(self, *_: Any, **__: Any) -> ModelResponse:
        raise NotImplementedError

    async def stream_response(self, *_: Any, **__: Any) -> AsyncIterator[TResponseStreamEvent]:
        pause_s = self._pause_s
        for event in self._events:
            if pause_s is not None:
                await asyncio.sleep(pause_s)
            yield event


def _events(pieces: Sequence[str]) -> list[TResponseStreamEvent]:
    message = message_of("".join(pieces))
    deltas = [
        ResponseTextDeltaEvent(
            content_index=0,
            delta=piece,
            item_id=message.id,
            logprobs=[],
            output_index=0,
            sequence_number=number,
            type="response.output_text.delta",
        )
        for number, piece in enumerate(pieces)
    ]
    usage = ResponseUsage.model_validate(
        {
            "input_tokens": 1_000,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 500,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 1_500,
        }
    )
    response = Response(
        id="resp_1",
        created_at=0,
        model=MODEL_NAME,
        object="response",
        output=[message],
        parallel_tool_calls=False,
        tool_choice="auto",
        tools=[],
        usage=usage,
    )
    completed = ResponseCompletedEvent(response=response, sequence_number=len(pieces), type="response.completed")
    return [*deltas, completed]
