"""What the second agent's model sees after a handoff, through the SDK's Runner, and what the record keeps."""

from typing import Any, get_args

import pytest
from agents import Agent, HandoffInputData, Runner, SQLiteSession
from agents.items import HandoffCallItem, MessageOutputItem, ReasoningItem, ToolApprovalItem, ToolCallItem
from agents.testing import assistant_message, function_call
from openai.types.responses import ResponseFunctionToolCall, ResponseReasoningItem, response_input_item_param

from app.domain.errors import InvalidInput
from app.domain.models.agents import HandoffHistory, HandoffSpec
from app.infrastructure.providers.openai.registry.handoffs import (
    HISTORIES,
    fresh,
    handoff_filter,
    last_turn,
    remove_all_tools,
)
from tests.unit.infrastructure.providers.openai.registry.building import Scripts, registry_of, spec

CALLS = {
    "function_call",
    "custom_tool_call",
    "shell_call",
    "local_shell_call",
    "apply_patch_call",
    "computer_call",
    "tool_search_call",
    "program",
}


async def look(place: str) -> str:
    """Look at a place."""
    return f"{place} is fine"


HISTORY: list[Any] = [
    {"role": "user", "content": "first question"},
    {"type": "function_call", "call_id": "old", "name": "look", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "old", "output": "old result"},
    {"role": "assistant", "content": "first answer"},
    {"role": "user", "content": "second question"},
]


def shape(items: Any) -> list[str]:
    """Each item as one word: the call or the text."""
    return [str(item.get("call_id") or _text(item["content"])) for item in items]


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def assert_paired(items: Any) -> None:
    calls = [item["call_id"] for item in items if item.get("type") == "function_call"]
    outputs = [item["call_id"] for item in items if item.get("type") == "function_call_output"]
    assert sorted(calls) == sorted(outputs)


EXPECTED = {
    "full": ["first question", "old", "old", "first answer", "second question", "c1", "c1", "say", "c2", "c2"],
    "fresh": ["second question"],
    "last_turn": ["second question", "c1", "c1", "say", "c2", "c2"],
    "remove_all_tools": ["first question", "first answer", "second question", "say"],
}


def scripts() -> Scripts:
    return Scripts(
        front=[
            [function_call("look", {"place": "here"}, call_id="c1")],
            [assistant_message("say"), function_call("transfer_to_back", {}, call_id="c2")],
        ],
        back=[[assistant_message("done")]],
    )


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("streamed", [False, True])
async def test_what_the_second_model_sees(history: HandoffHistory, streamed: bool) -> None:
    registry = registry_of(
        spec("front", model="front", tools=(look,), handoffs=(HandoffSpec("back", history),)),
        spec("back", model="back"),
    )
    models = scripts()
    agent = registry.get("front").agent
    if streamed:
        result: Any = Runner.run_streamed(agent, HISTORY, run_config=models.config())
        async for _ in result.stream_events():
            pass
    else:
        result = await Runner.run(agent, HISTORY, run_config=models.config())
    assert shape(models.seen("back")) == EXPECTED[history]
    assert_paired(models.seen("back"))
    # The run's own items are complete, whatever the second model saw.
    assert [item.type for item in result.new_items] == [
        "tool_call_item",
        "tool_call_output_item",
        "message_output_item",
        "handoff_call_item",
        "handoff_output_item",
        "message_output_item",
    ]
    assert registry.key_of(result.last_agent) == "back"


@pytest.mark.parametrize("history", HISTORIES)
async def test_the_session_keeps_the_whole_run(history: HandoffHistory) -> None:
    registry = registry_of(
        spec("front", model="front", tools=(look,), handoffs=(HandoffSpec("back", history),)),
        spec("back", model="back"),
    )
    session = SQLiteSession("s")
    try:
        await session.add_items(HISTORY[:-1])
        await Runner.run(registry.get("front").agent, "second question", session=session, run_config=scripts().config())
        stored = await session.get_items()
    finally:
        session.close()
    assert shape(stored) == [*EXPECTED["full"], "done"]


async def test_a_runs_own_filter_applies_where_a_handoff_has_none() -> None:
    registry = registry_of(
        spec("front", model="front", tools=(look,), handoffs=(HandoffSpec("back"),)), spec("back", model="back")
    )
    models = scripts()
    config = models.config(handoff_input_filter=handoff_filter("fresh"))
    await Runner.run(registry.get("front").agent, HISTORY, run_config=config)
    assert shape(models.seen("back")) == ["second question"]


async def test_there_and_back_again() -> None:
    registry = registry_of(
        spec("front", model="front", handoffs=(HandoffSpec("back", "last_turn"),)),
        spec("back", model="back", handoffs=(HandoffSpec("front", "remove_all_tools"),)),
    )
    models = Scripts(
        front=[[function_call("transfer_to_back", {}, call_id="c1")], [assistant_message("end")]],
        back=[[function_call("transfer_to_front", {}, call_id="c2")]],
    )
    result = await Runner.run(registry.get("front").agent, HISTORY, run_config=models.config())
    assert result.final_output == "end"
    assert shape(models.seen("back")) == ["second question", "c1", "c1"]
    assert shape(models.seen("front", 1)) == ["second question"]


def data(history: Any, **fields: Any) -> HandoffInputData:
    return HandoffInputData(
        input_history=history, pre_handoff_items=fields.pop("earlier", ()), new_items=fields.pop("new", ()), **fields
    )


AGENT: Agent[Any] = Agent(name="a")


def call_item(call_id: str) -> ToolCallItem:
    raw = ResponseFunctionToolCall(type="function_call", call_id=call_id, name="look", arguments="{}")
    return ToolCallItem(agent=AGENT, raw_item=raw)


def test_a_text_input_is_one_user_message() -> None:
    for chosen in (fresh, last_turn):
        assert chosen(data("hello")).input_history == ({"role": "user", "content": "hello"},)
    assert remove_all_tools(data("hello")).input_history == "hello"


def test_last_turn_is_pair_safe_at_the_cut_and_inside() -> None:
    history = (
        {"type": "function_call", "call_id": "cut", "name": "look", "arguments": "{}"},
        {"role": "user", "content": "q"},
        {"type": "function_call_output", "call_id": "cut", "output": "late"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "function_call", "call_id": "open", "name": "look", "arguments": "{}"},
    )
    reasoning = ReasoningItem(agent=AGENT, raw_item=ResponseReasoningItem(id="rs_2", summary=[], type="reasoning"))
    kept = last_turn(data(history, earlier=(reasoning, call_item("lost"))))
    assert kept.input_history == ({"role": "user", "content": "q"},)
    assert kept.pre_handoff_items == ()


def test_new_items_stay_for_the_record() -> None:
    new = (call_item("x"),)
    for chosen in (fresh, last_turn, remove_all_tools):
        filtered = chosen(data("q", new=new))
        assert filtered.new_items == new
        assert filtered.input_items == ()


def test_filters_chain() -> None:
    message = MessageOutputItem(agent=AGENT, raw_item=assistant_message("kept"))
    once = last_turn(data("q", new=(call_item("x"), message)))
    twice = remove_all_tools(once)
    assert twice.input_items == (message,)
    assert len(twice.new_items) == 2


def test_an_input_without_user_message() -> None:
    output = {"type": "function_call_output", "call_id": "gone", "output": "x"}
    spoken = {"role": "assistant", "content": "hi"}
    assert fresh(data((spoken, output))).input_history == (spoken,)
    assert fresh(data((output,))).input_history == ()
    assert last_turn(data((output, spoken))).input_history == (spoken,)


def test_a_pending_approval_has_no_place_in_the_input() -> None:
    raw = ResponseFunctionToolCall(type="function_call", call_id="c", name="look", arguments="{}")
    pending = ToolApprovalItem(agent=AGENT, raw_item=raw)
    handoff_call = HandoffCallItem(agent=AGENT, raw_item=raw)
    filtered = last_turn(data("q", earlier=(pending,), new=(handoff_call,)))
    assert filtered.pre_handoff_items == ()
    assert filtered.input_items == ()


def test_remove_all_tools_knows_every_paired_type_of_the_api() -> None:
    kinds = set()
    for item in get_args(response_input_item_param.ResponseInputItemParam):
        if {"call_id", "approval_request_id"} & set(item.__annotations__):
            annotation = item.__annotations__["type"].__forward_arg__
            kinds.add(annotation.split("'")[1])
    assert kinds >= CALLS
    for kind in kinds:
        assert remove_all_tools(data(({"type": kind, "call_id": "c", "id": "c"},))).input_history == (), kind


def test_names() -> None:
    assert handoff_filter("full") is None
    assert set(HISTORIES) == set(get_args(HandoffHistory))
    with pytest.raises(InvalidInput, match=r"no handoff history 'al'. Use one of: full, fresh") as caught:
        handoff_filter("al")
    assert caught.value.param == "handoff_history"
