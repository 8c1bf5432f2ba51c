"""History that goes to the model without passing through the Runner.

The Runner copies and normalizes its whole input several times a run. Where nothing between it and the model looks at
the history, it is put in front of the model's input at the last moment instead; what the model gets is the same.
"""

from collections.abc import Sequence
from typing import Any, cast

from agents import Agent, Handoff, TResponseInputItem

# Not public, but the only copy of the rule which keys of a stored item the API must not see; the version is pinned.
from agents.run_internal.items import strip_internal_input_item_metadata

from app.domain.models.conversations import Item


def looks_at_history(agent: Agent[Any]) -> bool:
    """Tell whether anything of an agent's own sees the Runner's input before the model does.

    Input guardrails, hooks, and handoffs (whose filters get the history, and whose target sees what they leave) do.
    Tools see only `ctx.turn_input`, which then holds the run's own items.
    """
    handoffs: Sequence[Agent[Any] | Handoff[Any, Any]] = agent.handoffs
    return bool(agent.input_guardrails) or agent.hooks is not None or bool(handoffs)


class PrependedHistory:
    """The history of one run, ready to be put in front of what the model is asked."""

    def __init__(self, history: Sequence[Item]) -> None:
        """`history` is pair-safe; it is prepared at the first call."""
        self._history = history
        self._prepared: list[TResponseInputItem] | None = None

    def before(self, request: str | list[TResponseInputItem]) -> list[TResponseInputItem]:
        """Return the history and the request; an item that the request repeats is left to the request."""
        if self._prepared is None:
            items = cast("list[TResponseInputItem]", self._history)
            self._prepared = [strip_internal_input_item_metadata(item) for item in items]
        asked: list[TResponseInputItem] = (
            [{"role": "user", "content": request}] if isinstance(request, str) else list(request)
        )
        repeated = {identity for item in asked if (identity := _identity(item)) is not None}
        if not repeated:
            return [*self._prepared, *asked]
        return [*(item for item in self._prepared if _identity(item) not in repeated), *asked]


def _identity(item: TResponseInputItem) -> tuple[str, str] | None:
    """Return what makes two items the same for the API: type and id, or type and call id."""
    fields = cast("dict[str, Any]", item)
    for name in ("id", "call_id"):
        value = fields.get(name)
        if isinstance(value, str) and value != "__fake_id__":
            return str(fields.get("type", "message")), value
    return None
