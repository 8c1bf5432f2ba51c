"""The model gets the same whether the history passes through the Runner or is put in front of its input."""

from typing import Any

import pytest
from agents import Agent, AgentHooks, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call

from app.domain.errors import InvalidInput
from app.domain.models.runs import RunStatus
from app.infrastructure.providers.openai.prepended_history import PrependedHistory, looks_at_history
from tests.fakes.openai import FakeOpenAI
from tests.provider.serving import CALLER, endpoint


@function_tool
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


def scripted() -> ScriptedModel:
    return ScriptedModel(
        [
            [function_call("double", {"number": 1}, call_id="call_1")],
            [assistant_message("two", item_id="msg_1")],
            [function_call("double", {"number": 2}, call_id="call_2")],
            [assistant_message("four", item_id="msg_2")],
        ]
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_the_model_gets_the_same_either_way(serve: Any, stream: bool) -> None:
    asked: list[list[Any]] = []
    histories: list[Any] = []
    for hooks in (None, AgentHooks[Any]()):  # hooks could look, so that the history goes through the Runner
        model = scripted()
        agent = Agent(name=f"a{len(asked)}", model=model, tools=[double], hooks=hooks)
        assert looks_at_history(agent) is (hooks is not None)
        served = await serve(agent)
        first = await served.run("one", stream=stream)
        second = await served.run("two", stream=stream, to=first.result.conversation_id)
        assert second.result.output == "four"
        asked.append([call.input for call in model.calls])
        histories.append(await served.history(first.result.conversation_id))
        assert second.kinds == ["user", "function_call", "function_call_output", "assistant"]
    assert asked[0] == asked[1]
    assert histories[0] == histories[1]
    assert len(asked[0][2]) == 5
    assert len(asked[0][3]) == 7


def test_an_item_that_the_request_repeats_is_sent_once() -> None:
    history = [
        {"role": "user", "content": "a"},
        {"type": "message", "id": "msg_1", "role": "assistant", "content": "b"},
        {"type": "function_call", "call_id": "c", "name": "n", "arguments": "{}", "created_by": "someone"},
    ]
    prepended = PrependedHistory(history)
    assert prepended.before("c") == [
        *history[:2],
        {"type": "function_call", "call_id": "c", "name": "n", "arguments": "{}"},
        {"role": "user", "content": "c"},
    ]
    again = [{"type": "message", "id": "msg_1", "role": "assistant", "content": "b"}, {"role": "user", "content": "d"}]
    assert prepended.before(again) == [history[0], {k: v for k, v in history[2].items() if k != "created_by"}, *again]


async def test_an_input_that_the_endpoint_refuses_does_not_spoil_its_conversation(serve: Any, fake: FakeOpenAI) -> None:
    served = await serve(Agent(name="a"), options=endpoint(fake))
    first = await served.run("one")
    thread = first.result.conversation_id
    bad = await served.run([{"type": "banana", "fruit": True}], to=thread)
    assert bad.result.status is RunStatus.FAILED
    assert bad.result.error is not None
    assert bad.result.error.code == "provider_rejected"
    after = await served.run("two", to=thread)
    assert (after.result.status, after.result.output) == (RunStatus.COMPLETED, "echo 2: two")
    assert [item.get("type", item.get("role")) for item in await served.history(thread)] == [
        "user",
        "message",
        "user",
        "message",
    ]
    assert (await served.row(bad.result.run_id)).input == [{"type": "banana", "fruit": True}]


async def test_wrong_options_are_refused_before_anything_is_written(serve: Any) -> None:
    served = await serve(Agent(name="a", model=scripted()))
    for options, param in (
        ({"model_settings": {"warmth": 1}}, "model_settings.warmth"),
        ({"handoff_history": "most"}, "handoff_history"),
        ({"output_schema": {"type": "banana"}}, "output_schema"),
    ):
        with pytest.raises(InvalidInput) as error:
            await served.start("hi", **options)
        assert error.value.param == param
    listed, _ = await served.conversations.list(CALLER, limit=10, after=None)
    assert list(listed) == []
