"""Which items of a cut history may be shown to a model."""

import copy
from typing import Any

import openai.types.responses.response_input_item_param as api
import pytest
from agents.run_internal.items import _TOOL_CALL_TO_OUTPUT_TYPE, drop_orphan_function_calls
from hypothesis import given
from hypothesis import strategies as st

from app.infrastructure.providers.openai.item_pairs import OUTPUT_OF_CALL, pair_safe
from tests.contract.session_store.conftest import user

PAIRS = [
    ({"type": call, "call_id": "c1"}, {"type": output, "call_id": "c1"})
    for call, output in OUTPUT_OF_CALL.items()
    if call != "mcp_approval_request"
] + [
    ({"type": "mcp_approval_request", "id": "c1"}, {"type": "mcp_approval_response", "approval_request_id": "c1"}),
    ({"type": "local_shell_call", "call_id": "c1", "id": "l1"}, {"type": "local_shell_call_output", "id": "c1"}),
    ({"type": "local_shell_call", "call_id": "c1", "id": "l1"}, {"type": "local_shell_call_output", "id": "l1"}),
    ({"type": "tool_search_call", "call_id": None}, {"type": "tool_search_output"}),
]
IDS = [call["type"] for call, _ in PAIRS]


def call(call_id: str = "c1") -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": "f", "arguments": "{}"}


def output(call_id: str = "c1") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": "o"}


def reasoning(number: int = 1) -> dict[str, Any]:
    return {"type": "reasoning", "id": f"rs_{number}", "summary": []}


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=IDS)
def test_a_pair_is_kept_and_each_half_alone_is_not(first: Any, second: Any) -> None:
    assert pair_safe([user("1"), first, user("2"), second, user("3")]) == [
        user("1"),
        first,
        user("2"),
        second,
        user("3"),
    ]
    assert pair_safe([second, user("1")]) == [user("1")]
    assert pair_safe([user("1"), first]) == [user("1")]
    assert pair_safe([second, first]) == []
    assert pair_safe([first, second, second]) == [first, second]
    assert pair_safe([first, first, second]) == [first, second]


def test_it_knows_every_pair_that_the_sdk_and_the_api_know() -> None:
    assert _TOOL_CALL_TO_OUTPUT_TYPE.items() <= OUTPUT_OF_CALL.items()
    named = {name for name in vars(api) if name.endswith(("Output", "ApprovalResponse"))}
    assert named == {
        "ComputerCallOutput", "FunctionCallOutput", "LocalShellCallOutput", "ShellCallOutput", "ApplyPatchCallOutput",
        "McpApprovalResponse", "ProgramOutput",
    }  # fmt: skip


def test_kinds_do_not_pair_with_each_other() -> None:
    assert pair_safe([call(), {"type": "custom_tool_call_output", "call_id": "c1"}]) == []


def test_parallel_calls_are_judged_one_by_one() -> None:
    assert pair_safe([call("a"), call("b"), output("b")]) == [call("b"), output("b")]
    assert pair_safe([call("a"), call("b"), output("b"), output("a")]) == [
        call("a"),
        call("b"),
        output("b"),
        output("a"),
    ]


def test_a_call_id_used_again_pairs_with_the_nearest_call() -> None:
    first, second = {**call(), "name": "first"}, {**call(), "name": "second"}
    assert pair_safe([first, output(), second, output()]) == [first, output(), second, output()]
    assert pair_safe([first, user("cut"), second, output()]) == [user("cut"), second, output()]
    assert pair_safe([output(), second, output()]) == [second, output()]


def test_reasoning_goes_with_the_item_that_had_to_follow_it() -> None:
    assert pair_safe([reasoning(), call(), user("1")]) == [user("1")]
    assert pair_safe([reasoning(1), reasoning(2), call(), user("1")]) == [user("1")]
    assert pair_safe([reasoning(), call(), output(), user("1")]) == [reasoning(), call(), output(), user("1")]
    message = {"type": "message", "role": "assistant", "content": []}
    assert pair_safe([reasoning(1), message, reasoning(2), call("x")]) == [reasoning(1), message]


def test_what_a_program_asked_for_goes_with_the_program() -> None:
    program, result = {"type": "program", "call_id": "p"}, {"type": "program_output", "call_id": "p"}
    caller = {"type": "program", "caller_id": "p"}
    inner = [{**call(), "caller": caller}, {**output(), "caller": caller}]
    hosted = {"type": "web_search_call", "id": "ws", "caller": caller}

    assert pair_safe([program, *inner, hosted, result]) == [program, *inner, hosted, result]
    assert pair_safe([program, *inner, hosted]) == []
    assert pair_safe([*inner, hosted, result]) == []
    assert pair_safe([{**call(), "caller": {"type": "direct"}}, output()]) != []


@pytest.mark.parametrize(
    "item", [{}, {"type": None}, {"type": 7}, {"type": []}, {"type": "function_call", "call_id": []}]
)
def test_malformed_items_raise_nothing(item: Any) -> None:
    assert pair_safe([item, user("1")])[-1] == user("1")


def test_it_takes_linear_time() -> None:
    items = [reasoning()] * 50_000 + [call()] * 50_000 + [output()] * 50_000
    assert len(pair_safe(items)) == 150_000
    assert pair_safe(items[:100_000]) == []


CALL_IDS = st.sampled_from(["a", "b", None])
ITEMS = st.lists(
    st.one_of(
        st.builds(lambda kind, call_id: {"type": kind, "call_id": call_id}, st.sampled_from(
            [*_TOOL_CALL_TO_OUTPUT_TYPE, *_TOOL_CALL_TO_OUTPUT_TYPE.values()]), st.sampled_from(["a", "b"])),
        st.builds(lambda key: {"type": "mcp_approval_request", "id": key}, CALL_IDS),
        st.builds(lambda key: {"type": "mcp_approval_response", "approval_request_id": key}, CALL_IDS),
        st.builds(lambda caller: {**call("a"), "caller": {"type": "program", "caller_id": caller}}, CALL_IDS),
        st.just(reasoning()),
        st.just(user("u")),
    ),
    max_size=25,
)  # fmt: skip


@given(ITEMS)
def test_whatever_the_history(items: list[Any]) -> None:
    before = copy.deepcopy(items)
    kept = pair_safe(items)

    assert items == before
    remaining = iter(items)
    assert all(any(item is candidate for candidate in remaining) for item in kept)  # a subsequence, not copied
    assert [item for item in kept if "role" in item] == [item for item in items if "role" in item]
    assert pair_safe(kept) == kept
    # The SDK's own pruning, which looks at ids and not at order, finds nothing more to remove.
    assert drop_orphan_function_calls(kept, output_pruning_indexes=set(range(len(kept)))) == kept


@given(ITEMS)
def test_every_kept_half_has_its_other(items: list[Any]) -> None:
    open_calls: list[tuple[str, Any]] = []
    for item in pair_safe(items):
        key = item.get("call_id") or item.get("id") or item.get("approval_request_id")
        if item.get("type") in OUTPUT_OF_CALL:
            open_calls.append((OUTPUT_OF_CALL[item["type"]], key))
        elif item.get("type") in OUTPUT_OF_CALL.values():
            open_calls.remove((item["type"], key))
    assert open_calls == []


@given(st.lists(st.sampled_from(range(len(PAIRS))), max_size=8), st.data())
def test_a_whole_history_is_kept_whole_and_any_cut_of_it_is_safe(numbers: list[int], data: st.DataObject) -> None:
    history: list[Any] = []
    for position, number in enumerate(numbers):
        first, second = PAIRS[number]
        renamed = [{key: f"{value}-{position}" if value in ("c1", "l1") else value for key, value in half.items()}
                   for half in (first, second)]  # fmt: skip
        history += [user(str(position)), reasoning(position), *renamed]
    assert pair_safe(history) == history

    cut = data.draw(st.integers(0, len(history)))
    shown = pair_safe(history[cut:])
    assert shown == history[len(history) - len(shown) :] or all(item in history[cut:] for item in shown)
    assert len(history) - cut - len(shown) <= 1
