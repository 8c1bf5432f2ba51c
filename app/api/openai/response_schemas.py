"""What the API's description says of responses; the objects themselves are made by `response_objects`."""

from typing import Any, Literal

from msgspec import Struct


class ResponseError(Struct, frozen=True):
    """Why a response failed."""

    code: str
    """One of the API's own."""
    message: str
    type: str
    """Our own code."""


class ResponseIncompleteDetails(Struct, frozen=True):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens", "content_filter", "max_messages"]


class ResponseInputDetails(Struct, frozen=True):
    """Parts of the input tokens."""

    cached_tokens: int
    cache_write_tokens: int


class ResponseOutputDetails(Struct, frozen=True):
    """Parts of the output tokens."""

    reasoning_tokens: int


class ResponseUsage(Struct, frozen=True):
    """Tokens of all model calls of a response, nested agents' included."""

    input_tokens: int
    input_tokens_details: ResponseInputDetails
    output_tokens: int
    output_tokens_details: ResponseOutputDetails
    total_tokens: int


class ResponseReply(Struct, frozen=True):
    """A response: how it stands or ended, what it has made, and what its request set."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["queued", "in_progress", "completed", "failed", "cancelled", "incomplete"]
    error: ResponseError | None
    incomplete_details: ResponseIncompleteDetails | None
    model: str
    """The agent's key."""
    output: list[dict[str, Any]]
    """Items: `message`, `reasoning`, `function_call`, `mcp_call`, `mcp_approval_request`, and those of hosted tools."""
    usage: ResponseUsage | None
    instructions: str | None
    metadata: dict[str, str]
    tools: list[dict[str, Any]]
    tool_choice: str | dict[str, Any]
    parallel_tool_calls: bool
    text: dict[str, Any]
    background: bool
    store: bool
    previous_response_id: str | None
    max_output_tokens: int | None
    temperature: float
    top_p: float
    truncation: str
    """And more of what the request set."""


class ResponseDeletedReply(Struct, frozen=True):
    """A response is gone."""

    id: str
    object: Literal["response"]
    deleted: bool


class ResponseItemsReply(Struct, frozen=True):
    """A page of items."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str
    """Empty when the page is."""
    last_id: str
    has_more: bool
