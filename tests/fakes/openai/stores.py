"""What the server keeps between requests: responses, conversations, and who is using one right now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .context_rules import item_not_found
from .input_items import item_type
from .wire import ApiError, IdSource, JsonObject

_ITEM_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}


@dataclass
class Conversation:
    """One stored conversation; `items` are in the API's output shape, oldest first."""

    id: str
    created_at: int
    metadata: dict[str, str]
    items: list[JsonObject] = field(default_factory=list)
    busy: bool = False

    def public(self) -> JsonObject:
        """The conversation object of the API."""
        return {"id": self.id, "object": "conversation", "created_at": self.created_at, "metadata": self.metadata}


@dataclass(frozen=True)
class StoredResponse:
    """A response with `store` not false; `context` is all that a next response would read: history, input, output."""

    payload: JsonObject
    context: list[JsonObject]


class Stores:
    """All state of one server. Only the server's own thread changes it."""

    def __init__(self, ids: IdSource) -> None:
        self._ids = ids
        self.responses: dict[str, StoredResponse] = {}
        self.conversations: dict[str, Conversation] = {}
        self._items: dict[str, JsonObject] = {}
        self.needed_reasoning: dict[str, str] = {}

    def conversation(self, conversation_id: str, *, param: str | None = None) -> Conversation:
        """Look up a conversation.

        Raises:
            ApiError: 400 for an id that does not begin with `conv`, 404 for one that does not exist (any more).
        """
        if not conversation_id.startswith("conv"):
            where = param or "conversation_id"
            raise ApiError(
                f"Invalid '{where}': '{conversation_id}'. Expected an ID that begins with 'conv'.",
                param=where,
                code="invalid_value",
            )
        found = self.conversations.get(conversation_id)
        if found is None:
            raise ApiError(f"Conversation with id '{conversation_id}' not found.", status=404, param=param)
        return found

    def response(self, response_id: str) -> StoredResponse:
        """Look up a stored response; a 404 when there is none."""
        found = self.responses.get(response_id)
        if found is None:
            raise ApiError(f"Response with id '{response_id}' not found.", status=404)
        return found

    def previous_context(self, response_id: str) -> list[JsonObject]:
        """The context that `previous_response_id` continues; a 400 when that response is not stored."""
        found = self.responses.get(response_id)
        if found is None:
            raise ApiError(
                f"Previous response with id '{response_id}' not found.",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        return list(found.context)

    def stored_form(self, items: Sequence[JsonObject]) -> list[JsonObject]:
        """Items as the API keeps and returns them: with id and status, message content as a list of parts."""
        return [self._with_id(item) for item in items]

    def _with_id(self, item: JsonObject) -> JsonObject:
        kind = item_type(item) or "message"
        # An id given as null is as good as none.
        kept = {key: value for key, value in item.items() if not (key == "id" and value is None)}
        kept["type"] = kind
        kept.setdefault("id", self._ids.new(_ITEM_PREFIXES.get(kind, "item")))
        if kind in ("message", "function_call", "function_call_output") and not kept.get("status"):
            kept["status"] = "completed"
        if kind == "message":
            kept["content"] = _content_parts(kept["role"], kept["content"])
        return kept

    def resolved(self, items: Sequence[JsonObject]) -> list[JsonObject]:
        """Put stored items in the place of references, and refuse bare reasoning that was never stored (404)."""
        found: list[JsonObject] = []
        for item in items:
            kind, given = item_type(item), item.get("id")
            if kind == "item_reference":
                if given not in self._items:
                    raise item_not_found(str(given))
                found.append(self._items[given])
                continue
            if kind == "reasoning" and given and not item.get("encrypted_content") and given not in self._items:
                raise item_not_found(given)
            found.append(item)
        return found

    def remember(self, items: Sequence[JsonObject]) -> None:
        """Keep items for references, and which of them need the reasoning that stands before them."""
        reasoning: str | None = None
        for item in items:
            self._items[item["id"]] = item
            if item_type(item) == "reasoning":
                reasoning = item["id"]
            elif reasoning is not None:
                self.needed_reasoning[item["id"]] = reasoning
                reasoning = None

    def forget(self, item_id: str) -> None:
        """Drop one item that a conversation no longer has."""
        self._items.pop(item_id, None)
        self.needed_reasoning.pop(item_id, None)


def _content_parts(role: str, content: object) -> list[JsonObject]:
    parts = [{"text": content}] if isinstance(content, str) else list(content if isinstance(content, list) else [])
    made: list[JsonObject] = []
    for part in parts:
        if role != "assistant":
            made.append({"type": "input_text", **part})
        elif part.get("type") == "refusal":
            made.append(dict(part))
        else:
            text = {"type": "output_text", "annotations": [], "logprobs": []}
            made.append({**text, **{key: value for key, value in part.items() if value is not None}})
    return made
