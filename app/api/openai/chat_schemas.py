"""What the API's description says of chat completions; the objects themselves are made by `chat_replies`."""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType


class ChatMessage(Struct, frozen=True, omit_defaults=True):
    """The answer: a text, a refusal, or calls of the caller's own functions."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | UnsetType | None = UNSET
    annotations: list[dict[str, Any]] | UnsetType = UNSET
    """Sources of the text."""
    tool_calls: list[dict[str, Any]] | UnsetType = UNSET


class ChatChoice(Struct, frozen=True):
    """One of the answers."""

    index: int
    message: ChatMessage
    logprobs: dict[str, Any] | None
    finish_reason: str
    """`stop`, `length`, `tool_calls` or `content_filter`; upstream models may have others."""


class ChatUsage(Struct, frozen=True, omit_defaults=True):
    """Tokens of all model calls of the completion."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int | None] | UnsetType | None = UNSET
    completion_tokens_details: dict[str, int | None] | UnsetType | None = UNSET


class ChatCompletion(Struct, frozen=True, omit_defaults=True):
    """A chat completion; upstream models may tell more."""

    id: str
    object: Literal["chat.completion"]
    created: int
    """When, in seconds since 1970."""
    model: str
    """The agent's key, or the upstream model."""
    choices: list[ChatChoice]
    usage: ChatUsage | UnsetType | None = UNSET
    metadata: dict[str, str] | UnsetType = UNSET
    """Of one that was kept."""


class ChatCompletionDeleted(Struct, frozen=True):
    """A completion is gone."""

    id: str
    object: Literal["chat.completion.deleted"]
    deleted: bool


class ChatMessageList(Struct, frozen=True):
    """A page of messages."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str
    """Empty when the page is."""
    last_id: str
    has_more: bool
