"""What a response was given, as a list of items with ids."""

from collections.abc import Sequence
from typing import Any, Final

from app.api.openai.response_faults import wrong_value
from app.api.openai.response_ids import approval_id
from app.api.openai.response_items import shown_part
from app.api.openai.response_runs import FoundResponse, answers_before
from app.bootstrap import Container
from app.domain.models.conversations import Caller, Item

_PREFIXES: Final = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}


async def input_items(container: Container, caller: Caller, response: FoundResponse) -> list[dict[str, Any]]:
    """Return what a response was given, oldest first: a request's input, or the answers to what a run asked."""
    head = response.head
    if head.id.part == 1:
        return [_shown(item, f"{head.id.hex}_in{index}") for index, item in enumerate(response.run.input)]
    answers = await answers_before(container, caller, response)
    return [
        {
            "type": "mcp_approval_response",
            "id": f"mcpa_{head.id.hex}_{index}",
            "approval_request_id": approval_id(head.id.hex, call),
            "approve": approval.state == "approved",
            **({} if approval.message is None else {"reason": approval.message}),
        }
        for index, (call, approval) in enumerate(answers)
    ]


def page_of(items: Sequence[dict[str, Any]], limit: int, order: str, after: str | None) -> dict[str, Any]:
    """Return a page of items.

    Raises:
        HttpError: `after` is the id of none of them (400).
    """
    ordered = list(items) if order == "asc" else list(reversed(items))
    if after is not None:
        places = [index for index, item in enumerate(ordered) if item["id"] == after]
        if not places:
            raise wrong_value("after", "there is no such item.")
        ordered = ordered[places[0] + 1 :]
    page = ordered[:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else "",
        "last_id": page[-1]["id"] if page else "",
        "has_more": len(ordered) > limit,
    }


def _shown(item: Item, number: str) -> dict[str, Any]:
    # The client's own ids may come twice, and a page is asked for by id.
    kind = str(item.get("type", "message"))
    shown = {**item, "id": f"{_PREFIXES.get(kind, 'item')}_{number}", "type": kind, "status": "completed"}
    if kind != "message":
        return shown
    content = item.get("content")
    if item.get("role") == "assistant":
        parts = [{"type": "output_text", "text": content}] if isinstance(content, str) else content
        return {**shown, "content": [shown_part(part) for part in parts or ()]}
    parts = [{"type": "input_text", "text": content}] if isinstance(content, str) else content
    return {**shown, "content": [_given_part(part) for part in parts or ()]}


def _given_part(part: dict[str, Any]) -> dict[str, Any]:
    return {"detail": "auto", **part} if part.get("type") == "input_image" else part
