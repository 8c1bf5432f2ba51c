"""A run's events as the events of a Response: a state machine that depends on nothing but the run's log.

Fed with a run's recorded events from the first one on, it tells the same events with the same numbers in any process
and at any time, so a stream goes on anywhere with "all after number n".

- Deltas of a model call are told as they are; an item's `done` events come with the end of its call, which alone
  knows the whole item. Calls of the agent's own tools are `mcp_call` items, told when the tool begins; those of the
  caller's tools are `function_call` items, whole at once.
- A model call that is made again, after a failure or a lost process, makes its items anew: those of the lost one are
  closed with status `incomplete`, and are not part of the Response's output.
- What nested agents say is not told; what they ask people for is.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, assert_never

from app.api.openai import response_items as items
from app.api.openai.response_ends import end_of, usage_since
from app.api.openai.response_ids import approval_call, approval_id
from app.api.openai.response_objects import ResponseEnd, ResponseHead
from app.api.openai.response_parts import OpenItem, WireEvent, added, delta_told, parts_done
from app.domain.models.events import (
    AgentUpdated,
    ApprovalRequested,
    HandoffOccurred,
    ItemDone,
    ModelCallStarted,
    ReasoningDelta,
    RefusalDelta,
    RunCancelled,
    RunCompleted,
    RunEvent,
    RunFailed,
    RunStarted,
    RunWaiting,
    TerminalEvent,
    TextDelta,
    ToolArgumentsDelta,
    ToolOutput,
    ToolStarted,
    UsageReported,
)
from app.domain.models.usage import TokenUsage

_FINAL_EVENTS = {
    "completed": "response.completed",
    "failed": "response.failed",
    "incomplete": "response.incomplete",
    "cancelled": "response.incomplete",
}
"""The API has no event of its own for a cancelled response; its status tells."""

_OF_AGENTS = (
    TextDelta,
    ReasoningDelta,
    RefusalDelta,
    ItemDone,
    ToolStarted,
    ToolOutput,
    HandoffOccurred,
    ModelCallStarted,
)
"""What is told of the run's own agents only."""


@dataclass(slots=True)
class _Known:
    """What is known of a run beyond one of its parts."""

    counts: dict[str, int] = field(default_factory=dict[str, int])
    """Whole items so far, by type."""
    ids: set[str] = field(default_factory=set[str])
    """Ids of whole items so far."""
    pending: dict[str, ItemDone] = field(default_factory=dict[str, ItemDone])
    """The agent's own calls that have not begun, by call id."""
    started: dict[str, ToolStarted] = field(default_factory=dict[str, ToolStarted])
    approvals: dict[str, str] = field(default_factory=dict[str, str])
    """Ids of requests for approval, by call id, of the run's own agents."""


class ResponseEvents:
    """The events of one response, made one after the other from those of its run."""

    def __init__(self, head: ResponseHead) -> None:
        """Begin before the run's first event."""
        self.head = head
        self.finished_at: int | None = None
        """When the run ended or began to wait, in seconds; the log does not say: set it before the last event."""
        self.end: ResponseEnd | None = None
        """None while the response goes on."""
        self.part = 1
        """The part of the run that the next event belongs to."""
        self.rebuilt = False
        """Whether the log is gone but for its end, and what is fed stands for it; then all parts of a run are one."""
        self._next_number = 0
        self._said_in_progress = False
        self._tools = head.tool_names
        self._known = _Known()
        self._used = TokenUsage()
        self._used_before = TokenUsage()
        self._told: list[WireEvent] = []
        self._items: list[OpenItem] = []
        self._open: dict[tuple[str, str], OpenItem] = {}
        self._calls: dict[str, OpenItem] = {}
        self._step = ""

    @property
    def output(self) -> list[Mapping[str, Any]]:
        """The items so far that are whole and not void."""
        return [item.value for item in self._items if item.value is not None and not item.void]

    @property
    def last_number(self) -> int:
        """The number of the last event told; 0 before the first one."""
        return max(0, self._next_number - 1)

    def begin(self) -> list[WireEvent]:
        """Return the events that need no run: a client learns the response's id before its run has its turn."""
        if self.head.given.get("background"):
            response = self.head.response(ResponseEnd("queued"))
            return self._numbered([_about(kind, response) for kind in ("response.created", "response.queued")])
        self._said_in_progress = True
        response = self.head.response(ResponseEnd("in_progress"))
        return self._numbered([_about(kind, response) for kind in ("response.created", "response.in_progress")])

    def feed(self, event: RunEvent) -> list[WireEvent]:
        """Return the response's events for the run's next event; none for those of other parts."""
        if self.end is not None:
            return []
        part = self.part
        self._take(event)
        told, self._told = self._told, []
        return self._numbered(told) if part == self.head.id.part else []

    def _numbered(self, told: list[WireEvent]) -> list[WireEvent]:
        for number, event in enumerate(told, self._next_number):
            event["sequence_number"] = number
        self._next_number += len(told)
        return told

    def _take(self, event: RunEvent) -> None:
        if isinstance(event, _OF_AGENTS) and event.scope:
            return
        match event:
            case TextDelta() | ReasoningDelta() | RefusalDelta():
                self._delta(event)
            case ItemDone():
                self._item_done(event)
            case ToolStarted() | ToolOutput() | HandoffOccurred():
                self._tool(event)
            case ModelCallStarted():
                self._model_started(event)
            case RunStarted():
                self._run_started()
            case ApprovalRequested():
                self._approval_requested(event)
            case UsageReported():
                self._used += event.tokens
            case RunWaiting():
                self._waiting(event)
            case RunCompleted() | RunFailed() | RunCancelled():
                self._ended(event, usage_since(event.tokens, self._used_before))
            case ToolArgumentsDelta() | AgentUpdated():
                pass  # whose tool is called is known with the whole item only
            case _:
                assert_never(event)

    def _run_started(self) -> None:
        self._break_open()
        if not self._said_in_progress and self.part == self.head.id.part:
            self._said_in_progress = True
            self._told.append(_about("response.in_progress", self.head.response(ResponseEnd("in_progress"))))

    def _model_started(self, event: ModelCallStarted) -> None:
        self._break_open()
        self._step = event.step
        pending = self._known.pending
        for call_id in [call_id for call_id, done in pending.items() if done.step == event.step]:
            del pending[call_id]
        for item in self._items:
            item.void = item.void or item.step == event.step

    def _break_open(self) -> None:
        """Close what a model call has begun that is made again, or not at all."""
        for item in self._open.values():
            item.void = True
            self._tell_incomplete(item)
        self._open.clear()

    def _tell_incomplete(self, item: OpenItem) -> None:
        value = item.so_far()
        self._told += parts_done(item, value)
        self._done(item, value)

    def _done(self, item: OpenItem, value: dict[str, Any]) -> None:
        item.value = value
        self._told.append({"type": "response.output_item.done", "output_index": item.index, "item": value})

    def _new_item(self, item_id: str, kind: str, step: str, first: dict[str, Any]) -> OpenItem:
        item = OpenItem(len(self._items), item_id, kind, step)
        self._items.append(item)
        self._told.append(added(item, first))
        return item

    def _delta(self, event: TextDelta | ReasoningDelta | RefusalDelta) -> None:
        kind = "reasoning" if isinstance(event, ReasoningDelta) else "message"
        item = self._open.get((event.item_id, kind))
        if item is None:
            first = items.empty_item(kind, self._free_id(event.item_id, kind))
            item = self._new_item(first["id"], kind, self._step, first)
            self._open[event.item_id, kind] = item
        if event.delta:
            self._told += delta_told(item, event)

    def _free_id(self, given: object, kind: str) -> str:
        """Return the endpoint's id, or one of ours where it gives none or gives one twice."""
        if items.is_usable_id(given) and given not in self._known.ids:
            return str(given)
        return items.own_id(self.head.id.hex, kind, self._known.counts.get(kind, 0) + 1)

    def _item_done(self, event: ItemDone) -> None:
        item = event.item
        kind = str(item.get("type"))
        if items.is_own_call(item, self._tools):
            self._known.pending[str(item.get("call_id") or item.get("id"))] = event
            return
        if kind == "mcp_approval_request":
            return  # it is told when the run asks for it
        opened = self._opened_as(item, kind)
        value = items.shown_item(item, self._free_id(item.get("id"), kind) if opened is None else opened.id)
        self._known.ids.add(value["id"])
        self._known.counts[kind] = self._known.counts.get(kind, 0) + 1
        if opened is None:
            first = items.empty_item(kind, value["id"], value)
            opened = self._new_item(value["id"], kind, event.step, first)
        if kind in {"message", "reasoning"}:
            self._told += parts_done(opened, value)
        elif kind == "function_call":
            self._told += _arguments("response.function_call_arguments", opened, value["arguments"])
        self._done(opened, value)

    def _opened_as(self, item: Mapping[str, Any], kind: str) -> OpenItem | None:
        """Return the item that the deltas of a whole item have opened; without ids, the oldest one of its type."""
        given = str(item.get("id"))
        key = (given, kind)
        if key not in self._open and not items.is_usable_id(item.get("id")):
            key = next((key for key in self._open if key[1] == kind and not items.is_usable_id(key[0])), key)
        return self._open.pop(key, None)

    def _tool(self, event: ToolStarted | ToolOutput | HandoffOccurred) -> None:
        match event:
            case ToolStarted():
                self._tool_started(event)
            case ToolOutput():
                self._tool_output(event)
            case HandoffOccurred():
                self._handoff(event)

    def _tool_started(self, event: ToolStarted) -> None:
        self._known.pending.pop(event.call_id, None)
        if event.call_id not in self._calls:  # else another attempt begins the same call again
            self._known.started[event.call_id] = event
            self._begin_call(event.call_id, event.agent, event.name, event.arguments)

    def _begin_call(self, call_id: str, agent: str, name: str, arguments: str) -> OpenItem:
        value = items.mcp_call(call_id, agent, name, arguments)
        asked = self._known.approvals.get(call_id)
        if asked is not None:
            value["approval_request_id"] = asked
        item = self._new_item(value["id"], "mcp_call", "", {**value, "arguments": ""})
        item.call = value
        self._calls[call_id] = item
        self._told.append(_of_item("response.mcp_call.in_progress", item))
        self._told += _arguments("response.mcp_call_arguments", item, arguments)
        return item

    def _tool_output(self, event: ToolOutput) -> None:
        if event.call_id not in self._calls:
            # It began in a part before this one, and a nested agent of it has waited for a person.
            started = self._known.started.get(event.call_id)
            self._begin_call(event.call_id, event.agent, event.name, "{}" if started is None else started.arguments)
        self._end_call(event.call_id, event.output)

    def _end_call(self, call_id: str, output: str) -> None:
        item = self._calls.pop(call_id)
        self._told.append(_of_item("response.mcp_call.completed", item))
        self._done(item, {**item.call, "status": "completed", "output": output})

    def _handoff(self, event: HandoffOccurred) -> None:
        """Tell the call that asked for a handoff: all other calls of its answer have begun by now."""
        for call_id, done in list(self._known.pending.items()):
            del self._known.pending[call_id]
            self._begin_call(call_id, event.from_agent, items.call_name(done.item), items.call_arguments(done.item))
            self._end_call(call_id, json.dumps({"assistant": event.to_agent}, separators=(",", ":")))
            return

    def _approval_requested(self, event: ApprovalRequested) -> None:
        value = {
            "type": "mcp_approval_request",
            "id": approval_id(self.head.id.hex, approval_call(event.call_id, event.scope)),
            "server_label": event.agent,
            "name": event.name,
            "arguments": event.arguments,
        }
        if not event.scope:
            self._known.pending.pop(event.call_id, None)
            self._known.approvals[event.call_id] = value["id"]
        self._done(self._new_item(value["id"], "mcp_approval_request", "", value), value)

    def _waiting(self, event: RunWaiting) -> None:
        self._ended(event, usage_since(self._used, self._used_before))
        if self.part == self.head.id.part:
            return
        # The response is a later part: it begins with nothing but what is known of the run.
        self.end = None
        self.part += 1
        self._used_before = self._used
        self._items = []

    def _ended(self, event: TerminalEvent | RunWaiting, usage: TokenUsage) -> None:
        for item in self._open.values():
            self._tell_incomplete(item)
        self._open.clear()
        for item in self._calls.values():
            self._break_call(item, event)
        self._calls.clear()
        self.end = end_of(event, usage, self.finished_at, cut=self._is_cut())
        response = self.head.response(self.end, self.output)
        self._told.append(_about(_FINAL_EVENTS[self.end.status], response))

    def _is_cut(self) -> bool:
        """Tell whether the last answer ends before it is complete, as its endpoint says."""
        last = next((item.value for item in reversed(self._items) if item.value is not None and not item.void), None)
        return last is not None and last["type"] == "message" and last["status"] == "incomplete"

    def _break_call(self, item: OpenItem, event: TerminalEvent | RunWaiting) -> None:
        if not isinstance(event, RunFailed):
            self._done(item, {**item.call, "status": "incomplete"})
            return
        content = [{"type": "text", "text": event.message}]
        error = {"type": "mcp_tool_execution_error", "content": content}
        self._told.append(_of_item("response.mcp_call.failed", item))
        self._done(item, {**item.call, "status": "failed", "error": error})


def _about(kind: str, response: dict[str, Any]) -> WireEvent:
    return {"type": kind, "response": response}


def _of_item(kind: str, item: OpenItem) -> WireEvent:
    return {"type": kind, "item_id": item.id, "output_index": item.index}


def _arguments(kind: str, item: OpenItem, arguments: str) -> list[WireEvent]:
    """Return the two events of a call's arguments, which are known only as a whole."""
    of_item = {"item_id": item.id, "output_index": item.index}
    return [
        {"type": f"{kind}.delta", **of_item, "delta": arguments},
        {"type": f"{kind}.done", **of_item, "arguments": arguments},
    ]
