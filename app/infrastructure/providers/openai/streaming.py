"""The model's stream events to ours, one way."""

from typing import Any, Final

from agents.items import TResponseStreamEvent

from app.domain.models.events import Delta, ReasoningDelta, RefusalDelta, TextDelta, ToolArgumentsDelta

_DELTAS: Final[dict[str, type[Delta]]] = {
    "response.output_text.delta": TextDelta,
    "response.reasoning_summary_text.delta": ReasoningDelta,
    "response.reasoning_text.delta": ReasoningDelta,
    "response.refusal.delta": RefusalDelta,
    "response.function_call_arguments.delta": ToolArgumentsDelta,
    "response.mcp_call_arguments.delta": ToolArgumentsDelta,
    "response.custom_tool_call_input.delta": ToolArgumentsDelta,
    "response.code_interpreter_call_code.delta": ToolArgumentsDelta,
}


def delta_of(event: TResponseStreamEvent, scope: str) -> Delta | None:
    """Return our delta for a stream event of the model; None when the event is no delta a reader needs.

    Reasoning that begins is an empty delta: what follows may be an answer, before any of the reasoning is told.
    """
    kind = _DELTAS.get(event.type)
    if kind is None:
        return _begun(event, scope)
    # Every event type in the table has these two; the SDK's union cannot say so.
    delta: Any = event
    return kind(delta.delta, delta.item_id, scope)


def _begun(event: TResponseStreamEvent, scope: str) -> Delta | None:
    if event.type != "response.output_item.added" or event.item.type != "reasoning":
        return None
    return ReasoningDelta("", event.item.id, scope)
