"""A plain run and a streamed one of the same agent end the same: result, items, steps, usage, messages."""

import dataclasses
from typing import Any

import pytest
from agents import Agent, AgentOutputSchema, Usage, function_tool, handoff
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionWebSearch,
    ResponseOutputItemDoneEvent,
    ResponseOutputMessage,
    ResponseOutputRefusal,
    ResponseReasoningItem,
    ResponseUsage,
)
from openai.types.responses.response_function_web_search import ActionSearch
from openai.types.responses.response_reasoning_item import Summary
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails
from pydantic import BaseModel

from app.domain.models.events import ReasoningDelta, RefusalDelta, TextDelta, ToolArgumentsDelta
from app.domain.models.runs import RunStatus
from tests.provider.serving import Ran, Served, kinds, user

USAGE = Usage(
    requests=1,
    input_tokens=100,
    output_tokens=20,
    total_tokens=120,
    input_tokens_details=InputTokensDetails(cached_tokens=40, cache_write_tokens=7),
    output_tokens_details=OutputTokensDetails(reasoning_tokens=5),
)


def step(*items: Any, response_id: str = "resp_1") -> ModelStep:
    return ModelStep(output=list(items), usage=USAGE, response_id=response_id)


def comparable(value: Any) -> Any:
    """What must be equal: everything but ids and times of this one run."""
    ignored = {"run_id", "conversation_id", "timings", "trace_id", "started_at", "latency_ms", "first_token_ms"}
    ignored |= {"duration_ms", "created_at"}
    if dataclasses.is_dataclass(value):
        shown = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
        return {name: comparable(part) for name, part in shown.items() if name not in ignored}
    if hasattr(value, "_mapping"):
        return {name: part for name, part in value._mapping.items() if name not in ignored}
    if isinstance(value, list | tuple):
        return [comparable(one) for one in value]
    return value


async def everything(served: Served, ran: Ran) -> dict[str, Any]:
    run_id = ran.result.run_id
    return {
        "result": comparable(ran.result),
        "steps": comparable(await served.steps(run_id)),
        "usage": comparable(await served.usage_rows(run_id)),
        "messages": comparable(await served.messages(ran.result.conversation_id)),
        "history": list(await served.history(ran.result.conversation_id)),
    }


async def both(serve: Any, make: Any, given: Any = "hello", **options: Any) -> tuple[Ran, Ran]:
    """Run the agent that `make` makes, plain and streamed; assert that all of it is the same."""
    ends: list[Ran] = []
    left: list[dict[str, Any]] = []
    for stream in (False, True):
        served = await serve(make())
        ran = await served.run(given, stream=stream, **options)
        ends.append(ran)
        left.append(await everything(served, ran))
    assert left[0] == left[1]
    plain = [kind for kind in ends[0].told if not kind.endswith("delta")]
    assert plain == [kind for kind in ends[1].told if not kind.endswith("delta")] == ends[0].told
    return ends[0], ends[1]


@function_tool
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


def scripted(*steps: Any, **agent: Any) -> Agent[Any]:
    return Agent(name=agent.pop("name", "worker"), model=ScriptedModel(steps), **agent)


async def test_text(serve: Any) -> None:
    plain, streamed = await both(serve, lambda: scripted(step(assistant_message("Hello Ada."))))
    assert plain.result.output == "Hello Ada."
    assert plain.result.status is RunStatus.COMPLETED
    assert plain.kinds == ["user", "assistant"]
    assert plain.result.response_ids == ("resp_1",)
    assert plain.result.usage.input_tokens == 100
    assert (plain.result.usage.cached_tokens, plain.result.usage.cache_write_tokens) == (40, 7)
    assert plain.result.usage.reasoning_tokens == 5
    assert "".join(event.delta for event in streamed.of(TextDelta)) == "Hello Ada."
    assert streamed.result.timings.first_token_ms is not None
    assert plain.result.timings.first_token_ms is None


async def test_a_tool_call(serve: Any) -> None:
    plain, streamed = await both(
        serve,
        lambda: scripted(
            step(function_call("double", {"number": 21}, call_id="call_1")),
            step(assistant_message("It is 42."), response_id="resp_2"),
            tools=[double],
        ),
    )
    assert plain.kinds == ["user", "function_call", "function_call_output", "assistant"]
    assert [(call.call_id, call.name, call.output) for call in plain.result.tool_calls] == [("call_1", "double", "42")]
    assert plain.result.response_ids == ("resp_1", "resp_2")
    assert [call.step for call in plain.result.calls] == ["/m1", "/m2"]
    assert "".join(event.delta for event in streamed.of(ToolArgumentsDelta)) == '{"number":21}'


async def test_two_tools_at_once(serve: Any) -> None:
    plain, _ = await both(
        serve,
        lambda: scripted(
            step(
                function_call("double", {"number": 1}, call_id="call_1"),
                function_call("double", {"number": 2}, call_id="call_2"),
            ),
            step(assistant_message("2 and 4.")),
            tools=[double],
        ),
    )
    assert {call.call_id: call.output for call in plain.result.tool_calls} == {"call_1": "2", "call_2": "4"}
    assert plain.kinds.count("function_call_output") == 2


def there_and_back() -> Agent[Any]:
    """Two agents that hand off to each other: one as an agent, one as a Handoff object."""
    front = scripted(
        step(function_call("transfer_to_back_office", {}, call_id="call_1")),
        step(assistant_message("Done, says the front.")),
        name="front",
    )
    back = scripted(
        step(function_call("transfer_to_front", {}, call_id="call_2")), name="Back Office", handoffs=[handoff(front)]
    )
    front.handoffs = [back]
    return front


async def test_handoff_there_and_back(serve: Any) -> None:
    plain, _ = await both(serve, there_and_back)
    assert [(one.from_agent, one.to_agent) for one in plain.result.handoffs] == [
        ("front", "back-office"),
        ("back-office", "front"),
    ]
    assert plain.result.agent == "front"
    assert plain.result.output == "Done, says the front."
    assert [call.agent for call in plain.result.calls] == ["front", "back-office", "front"]
    assert plain.told.count("handoff") == plain.told.count("agent.updated") == 2


class Weather(BaseModel):
    city: str
    celsius: float


@dataclasses.dataclass
class Sky:
    clouds: int


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("agent_type", "options", "answer", "output"),
    [
        (Weather, {}, '{"city": "Oslo", "celsius": -3}', {"city": "Oslo", "celsius": -3.0}),
        (Sky, {}, '{"response": {"clouds": 8}}', {"clouds": 8}),
        (list[int], {}, '{"response": [1, 2]}', [1, 2]),
        (AgentOutputSchema(dict[str, int], strict_json_schema=False), {}, '{"a": 1}', {"a": 1}),
        (None, {"output_type": Weather}, '{"city": "Oslo", "celsius": 1}', {"city": "Oslo", "celsius": 1.0}),
        (None, {"output_schema": SCHEMA}, '{"city": "Oslo"}', {"city": "Oslo"}),
    ],
)
async def test_structured_output_is_json(serve: Any, agent_type: Any, options: Any, answer: str, output: Any) -> None:
    plain, _ = await both(serve, lambda: scripted(step(assistant_message(answer)), output_type=agent_type), **options)
    assert plain.result.output == output
    assert type(plain.result.output) in {dict, list}


@pytest.mark.parametrize("as_object", [False, True])
async def test_the_run_s_output_type_holds_after_a_handoff(serve: Any, as_object: bool) -> None:
    def make() -> Agent[Any]:
        back = scripted(step(assistant_message('{"city": "Oslo"}')), name="back")
        return scripted(
            step(function_call("transfer_to_back", {}, call_id="call_1")),
            name="front",
            handoffs=[handoff(back) if as_object else back],
        )

    plain, _ = await both(serve, make, output_schema=SCHEMA)
    assert plain.result.output == {"city": "Oslo"}
    assert plain.result.agent == "back"


async def test_a_refusal(serve: Any) -> None:
    refusal = ResponseOutputMessage(
        id="msg_1",
        type="message",
        role="assistant",
        status="completed",
        content=[ResponseOutputRefusal(refusal="I will not.", type="refusal")],
    )
    plain, streamed = await both(serve, lambda: scripted(step(refusal)))
    assert "".join(event.delta for event in streamed.of(RefusalDelta)) == "I will not."
    assert plain.result.status is streamed.result.status


async def test_reasoning_and_hosted_tools(serve: Any) -> None:
    reasoning = ResponseReasoningItem(
        id="rs_1", type="reasoning", summary=[Summary(text="Let me think.", type="summary_text")]
    )
    plain, streamed = await both(serve, lambda: scripted(step(reasoning, assistant_message("Snow."))))
    assert plain.kinds == ["user", "reasoning", "assistant"]
    assert "".join(event.delta for event in streamed.of(ReasoningDelta)) == "Let me think."


class Searching(ScriptedModel):
    """Answers with a hosted tool's item, which the scripted model cannot stream by itself."""

    OUTPUT = (
        ResponseFunctionWebSearch(
            id="ws_1", type="web_search_call", status="completed", action=ActionSearch(type="search", query="oslo")
        ),
        assistant_message("Snow."),
    )

    def __init__(self) -> None:
        super().__init__([step(*self.OUTPUT)])

    async def stream_response(self, *args: Any, **kwargs: Any) -> Any:
        response = Response(
            id="resp_1",
            created_at=0,
            model="m",
            object="response",
            output=[],
            parallel_tool_calls=True,
            tool_choice="auto",
            tools=[],
            usage=ResponseUsage(
                input_tokens=100,
                output_tokens=20,
                total_tokens=120,
                input_tokens_details=USAGE.input_tokens_details,
                output_tokens_details=USAGE.output_tokens_details,
            ),
        )
        for index, item in enumerate(self.OUTPUT):
            yield ResponseOutputItemDoneEvent(
                item=item, output_index=index, sequence_number=index, type="response.output_item.done"
            )
        yield ResponseCompletedEvent(response=response, sequence_number=9, type="response.completed")


async def test_hosted_tools_and_an_end_without_items(serve: Any) -> None:
    """Some backends send the items one by one and an empty list at the end."""
    plain, _ = await both(serve, lambda: Agent(name="worker", model=Searching()))
    assert plain.kinds == ["user", "web_search_call", "assistant"]
    assert plain.result.tool_calls == ()


async def test_attachments(serve: Any) -> None:
    given = [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "What is this?"},
                {"type": "input_image", "detail": "auto", "image_url": "data:image/png;base64,AAAA"},
                {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"},
            ],
        }
    ]
    models: list[Any] = []

    def make() -> Agent[Any]:
        agent = scripted(step(assistant_message("A picture and a paper.")))
        models.append(agent.model)
        return agent

    plain, _ = await both(serve, make, given)
    assert plain.result.items[0]["content"] == given[0]["content"]
    assert [model.last_call.input[0]["content"] for model in models] == [given[0]["content"]] * 2


async def test_an_agent_as_a_tool_with_a_model_of_its_own(serve: Any) -> None:
    def make() -> Agent[Any]:
        inner = scripted(
            step(function_call("double", {"number": 4}, call_id="call_9")),
            step(assistant_message("eight")),
            name="Inner One",
            tools=[double],
        )
        return scripted(
            step(function_call("ask_inner", {"input": "twice 4?"}, call_id="call_1")),
            step(assistant_message("It is eight.")),
            tools=[inner.as_tool("ask_inner", "Ask the inner one.")],
        )

    plain, _ = await both(serve, make)
    assert plain.result.output == "It is eight."
    assert sorted(call.step for call in plain.result.calls) == ["/m1", "/m2", "/t:call_1/m1", "/t:call_1/m2"]
    assert {call.step: call.agent for call in plain.result.calls}["/t:call_1/m1"] == "inner-one"
    assert plain.result.usage.requests == 4
    assert [(call.scope, call.name) for call in plain.result.tool_calls] == [
        ("", "ask_inner"),
        ("/t:call_1", "double"),
    ]
    assert plain.kinds == ["user", "function_call", "function_call_output", "assistant"]


@pytest.mark.parametrize("behavior", ["stop_on_first_tool", {"stop_at_tool_names": ["double"]}])
async def test_a_tool_s_output_as_the_answer(serve: Any, behavior: Any) -> None:
    plain, _ = await both(
        serve,
        lambda: scripted(
            step(function_call("double", {"number": 21}, call_id="call_1")), tools=[double], tool_use_behavior=behavior
        ),
    )
    assert plain.result.output in (42, "42")
    assert plain.kinds == ["user", "function_call", "function_call_output"]


async def test_a_tool_that_returns_an_object(serve: Any) -> None:
    """The record says what the model reads, in the SDK's own words."""

    @function_tool
    def look() -> dict[str, int]:
        """Look."""
        return {"clouds": 3}

    plain, _ = await both(
        serve,
        lambda: scripted(
            step(function_call("look", {}, call_id="call_1")), step(assistant_message("Cloudy.")), tools=[look]
        ),
    )
    assert plain.result.items[2]["output"] == plain.result.tool_calls[0].output == "{'clouds': 3}"


async def test_lone_surrogates_do_not_break_a_run(serve: Any) -> None:
    plain, _ = await both(serve, lambda: scripted(step(assistant_message("fine"))), [user("odd \ud83d text")])
    assert plain.result.output == "fine"


async def test_history_of_both_reads_the_same(serve: Any) -> None:
    agent = scripted(
        step(function_call("double", {"number": 1}, call_id="call_1")),
        step(assistant_message("two", item_id="msg_1")),
        step(assistant_message("again", item_id="msg_1")),
        step(assistant_message("third", item_id="msg_1")),
        tools=[double],
    )
    served = await serve(agent)
    first = await served.run("one")
    await served.run("two", to=first.result.conversation_id, stream=True)
    await served.run("three", to=first.result.conversation_id)
    shown = agent.model.last_call.input
    assert kinds(shown) == [
        "user",
        "function_call",
        "function_call_output",
        "assistant",
        "user",
        "assistant",
        "user",
    ]
