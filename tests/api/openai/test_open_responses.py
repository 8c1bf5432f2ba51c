"""Every answer holds what Open Responses and the official client's types require, and no null where they have none.

The client itself is more lenient: it takes what is missing for None.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from agents import Agent
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel
from typing_extensions import TypeAliasType

from tests.api.openai.response_clients import WEATHER, add, wipe
from tests.api.serving import Served, calls, says, scripted
from tests.fakes.openai import Call, FakeOpenAI, Reasoning, Text

Serve = Callable[..., Any]

NULLABLE = {
    *("completed_at", "incomplete_details", "previous_response_id", "instructions", "error", "reasoning", "usage"),
    *("max_output_tokens", "max_tool_calls", "safety_identifier", "prompt_cache_key"),
}
REQUIRED = NULLABLE | {
    *("id", "object", "created_at", "status", "model", "output", "tools", "tool_choice", "truncation"),
    *("parallel_tool_calls", "text", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs", "temperature"),
    *("store", "background", "service_tier", "metadata"),
}
"""Of the resource, as https://www.openresponses.org/specification has it."""


def faults(kind: Any, value: Any, path: str) -> Iterator[str]:
    """Tell what of a JSON value does not fit a type."""
    if isinstance(kind, TypeAliasType):
        kind = kind.__value__
    origin = get_origin(kind)
    if origin is Annotated:
        yield from faults(get_args(kind)[0], value, path)
    elif origin in {Union, UnionType}:
        yield from _of_union(get_args(kind), value, path)
    elif origin is Literal:
        if value not in get_args(kind):
            yield f"{path}: {value!r} is none of {get_args(kind)}"
    elif origin is list:
        if not isinstance(value, list):
            yield f"{path}: {value!r} is no list"
            return
        for number, one in enumerate(value):
            yield from faults(get_args(kind)[0], one, f"{path}[{number}]")
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        yield from _of_model(kind, value, path)
    elif kind in {str, int, bool, float}:
        wanted = (int, float) if kind is float else kind
        if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
            yield f"{path}: {value!r} is no {kind.__name__}"
    elif value is None and kind not in {Any, object, NoneType}:
        yield f"{path}: null is no {kind}"


def _of_union(kinds: tuple[Any, ...], value: Any, path: str) -> Iterator[str]:
    named = [kind for kind in kinds if _tag(kind) is not None and isinstance(value, dict)]
    fitting = [kind for kind in named if value.get("type") in (_tag(kind) or ())] or list(kinds)
    told = [list(faults(kind, value, path)) for kind in fitting]
    yield from min(told, key=len)


def _tag(kind: Any) -> tuple[Any, ...] | None:
    """The types that a model says it may be."""
    if get_origin(kind) is Annotated:
        return _tag(get_args(kind)[0])
    if not (isinstance(kind, type) and issubclass(kind, BaseModel) and "type" in kind.model_fields):
        return None
    return get_args(kind.model_fields["type"].annotation)


def _of_model(kind: type[BaseModel], value: Any, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: {value!r} is no {kind.__name__}"
        return
    for name, field in kind.model_fields.items():
        key = field.alias or name
        if key in value:
            yield from faults(field.annotation, value[key], f"{path}.{key}")
        elif field.is_required():
            yield f"{path}.{key} is missing"


def check(response: Mapping[str, Any]) -> None:
    """Assert that a response holds everything, and nothing that it may not."""
    assert list(faults(Response, dict(response), "response")) == []
    assert REQUIRED - response.keys() == set()
    assert {name for name in REQUIRED if response[name] is None} <= NULLABLE


async def answered(served: Served, **body: Any) -> dict[str, Any]:
    reply = await served.http.post("/v1/responses", json={"model": "helper", "input": "1+2?", **body})
    assert reply.status_code == 200, reply.text
    check(reply.json())
    again = await served.http.get(f"/v1/responses/{reply.json()['id']}")
    if again.status_code == 200:
        check(again.json())
    return reply.json()


async def told(served: Served, **body: Any) -> list[dict[str, Any]]:
    """The events of a stream, each of which is as its type says."""
    reply = await served.http.post("/v1/responses", json={"model": "helper", "input": "1+2?", "stream": True, **body})
    events = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
    assert events
    for event in events:
        assert list(faults(ResponseStreamEvent, event, str(event["type"]))) == []
        if "response" in event:
            check(event["response"])
    return events


async def both(served: Served, **body: Any) -> dict[str, Any]:
    """An answer, and the end of the stream of the next one."""
    plain = await answered(served, **body)
    last = (await told(served, **body))[-1]["response"]
    assert last["status"] == plain["status"]
    assert [item["type"] for item in last["output"]] == [item["type"] for item in plain["output"]]
    return plain


def test_the_walk_finds_what_is_wrong() -> None:
    event = {"type": "response.output_text.delta", "delta": None, "item_id": "m", "output_index": True, "logprobs": []}
    assert [fault.partition(":")[0] for fault in faults(ResponseStreamEvent, event, "e")] == [
        "e.content_index is missing",
        "e.delta",
        "e.output_index",
        "e.sequence_number is missing",
    ]
    assert len(list(faults(Response, {"id": "r", "tools": None}, "r"))) > 5


async def test_text_in_every_way(serve: Serve) -> None:
    served = await serve(scripted(*[says("Three.")] * 7))
    await both(served)
    await both(served, instructions="Be short.", metadata={"a": "b"}, temperature=0.5, reasoning={"effort": "low"})
    await both(served, store=False)
    queued = await answered(served, background=True)
    assert queued["status"] in {"queued", "in_progress", "completed"}


async def test_tools_of_the_agent_with_reasoning(serve: Serve, fake: FakeOpenAI) -> None:
    endpoint = {"api_key": fake.api_key, "base_url": fake.base_url, "api": "responses", "max_retries": 0}
    fake.script([[Reasoning("Let me add."), Call("add", {"a": 1, "b": 2})], "It is three."] * 2)
    served = await serve(Agent(name="helper", model="gpt-5", tools=[add]), openai=endpoint)
    answer = await both(served)
    assert [item["type"] for item in answer["output"]] == ["reasoning", "mcp_call", "message"]


async def test_reasoning_is_added_before_the_message(serve: Serve, fake: FakeOpenAI) -> None:
    endpoint = {"api_key": fake.api_key, "base_url": fake.base_url, "api": "responses", "max_retries": 0}
    fake.script([[Reasoning("Hm."), Text("Three.")]])
    served = await serve(Agent(name="helper", model="gpt-5"), openai=endpoint)  # it shows no summary
    added = [event["item"]["type"] for event in await told(served) if event["type"] == "response.output_item.added"]
    assert added == ["reasoning", "message"]


async def test_an_answer_that_is_cut(serve: Serve, fake: FakeOpenAI) -> None:
    endpoint = {"api_key": fake.api_key, "base_url": fake.base_url, "api": "responses", "max_retries": 0}
    served = await serve(Agent(name="helper", model="gpt-5"), openai=endpoint)
    asked: dict[str, Any] = {"max_output_tokens": 16, "input": "say " + "many words " * 40}
    assert (await answered(served, **asked))["status"] == "incomplete"
    assert (await told(served, **asked))[-1]["type"] == "response.incomplete"


@pytest.mark.parametrize("tools", [[WEATHER], [{**WEATHER, "strict": False}]], ids=["strict", "loose"])
async def test_tools_of_the_caller(serve: Serve, tools: list[Any]) -> None:
    served = await serve(scripted(*[calls("weather", '{"city": "Oslo"}')] * 2))
    assert (await both(served, tools=tools))["output"][-1]["type"] == "function_call"


async def test_a_run_that_fails_and_one_that_asks(serve: Serve) -> None:
    served = await serve(
        scripted(name="helper"), scripted(*[calls("wipe", '{"disk": "a"}')] * 2, name="k", tools=[wipe])
    )
    assert (await both(served))["status"] == "failed"
    assert (await both(served, model="k"))["output"][-1]["type"] == "mcp_approval_request"
