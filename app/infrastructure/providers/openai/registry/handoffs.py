"""What the next agent's model sees of the history after a handoff.

- `full`: everything; no filter at all, so a run's own filter still applies where one is set.
- `fresh`: only the latest user message, as if the user had asked the new agent directly.
- `last_turn`: from the latest user message on, with what has happened since, tool calls and the handoff included.
- `remove_all_tools`: all messages, without tool calls, their outputs, or the reasoning that belongs to them.

The filters change the model's input only. The run's own items stay complete, so the recorded history does too. The
SDK's `remove_all_tools` alone would drop tool items from both. No filter leaves a call without its output, or an output
without its call.
In server mode (the history lives at the provider) the SDK refuses a handoff with a filter, so only `full` works there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast

from agents import HandoffInputData, HandoffInputFilter, RunItem, TResponseInputItem
from agents.extensions.handoff_filters import remove_all_tools as sdk_remove_all_tools
from agents.items import ToolApprovalItem

from app.domain.errors import InvalidInput
from app.domain.models.agents import HandoffHistory
from app.domain.models.conversations import Item
from app.infrastructure.providers.openai.item_pairs import pair_safe

HISTORIES: Final[tuple[HandoffHistory, ...]] = ("full", "fresh", "last_turn", "remove_all_tools")
"""The names `handoff_filter` knows."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One item of the input: where it came from, and its wire form."""

    wire: TResponseInputItem
    run_item: RunItem | None = None
    part: Literal["history", "earlier", "new"] = "history"

    @property
    def kind(self) -> str:
        """The wire type; a plain message may come without one."""
        return str(self.wire.get("type") or "message")


def handoff_filter(name: str) -> HandoffInputFilter | None:
    """Return the SDK's input filter of that name, for a handoff or for `RunConfig.handoff_input_filter`.

    None for `full`: nothing is filtered.

    Raises:
        InvalidInput: there is no such filter.
    """
    match name:
        case "full":
            return None
        case "fresh":
            return fresh
        case "last_turn":
            return last_turn
        case "remove_all_tools":
            return remove_all_tools
        case _:
            raise InvalidInput(
                f"There is no handoff history '{name[:40]}'. Use one of: {', '.join(HISTORIES)}.",
                param="handoff_history",
            )


def fresh(data: HandoffInputData) -> HandoffInputData:
    """Keep the latest user message; without one, the latest message of any role."""
    entries = _entries(data)
    start = _last_message(entries)
    return _rebuild(data, [] if start is None else [entries[start]])


def last_turn(data: HandoffInputData) -> HandoffInputData:
    """Keep the latest user message and all that followed it; an input without any message is kept as it is."""
    entries = _entries(data)
    return _rebuild(data, _paired(entries[_last_message(entries) or 0 :]))


def remove_all_tools(data: HandoffInputData) -> HandoffInputData:
    """Keep messages only; the run's own new items stay complete for the record."""
    filtered = sdk_remove_all_tools(data)
    visible = filtered.new_items if filtered.input_items is None else filtered.input_items
    return filtered.clone(new_items=data.new_items, input_items=visible)


def _entries(data: HandoffInputData) -> list[_Entry]:
    history: Sequence[TResponseInputItem] = (
        ({"role": "user", "content": data.input_history},)
        if isinstance(data.input_history, str)
        else data.input_history
    )
    new = data.new_items if data.input_items is None else data.input_items
    parts: tuple[tuple[Literal["earlier", "new"], Sequence[RunItem]], ...] = (
        ("earlier", data.pre_handoff_items),
        ("new", new),
    )
    return [
        *(_Entry(item) for item in history),
        *(
            _Entry(item.to_input_item(), item, part)
            for part, items in parts
            for item in items
            if not isinstance(item, ToolApprovalItem)  # a question to the user; it has no wire form
        ),
    ]


def _last_message(entries: Sequence[_Entry]) -> int | None:
    """Return where the latest user message is, else the latest message of any role, else None."""
    messages = [index for index, entry in enumerate(entries) if entry.kind == "message"]
    users = [index for index in messages if entries[index].wire.get("role") == "user"]
    return (users or messages or [None])[-1]


def _paired(entries: Sequence[_Entry]) -> list[_Entry]:
    """Drop calls without an output, outputs without a call, and the reasoning that belongs to them."""
    kept = {id(item) for item in pair_safe([cast("Item", entry.wire) for entry in entries])}
    return [entry for entry in entries if id(entry.wire) in kept]


def _rebuild(data: HandoffInputData, kept: Sequence[_Entry]) -> HandoffInputData:
    def run_items(part: str) -> tuple[RunItem, ...]:
        return tuple(entry.run_item for entry in kept if entry.part == part and entry.run_item is not None)

    return data.clone(
        input_history=tuple(entry.wire for entry in kept if entry.part == "history"),
        pre_handoff_items=run_items("earlier"),
        input_items=run_items("new"),
    )
