"""Usage as upstreams write it, for all three wires, to ours."""

from typing import Annotated, Any, Final, cast

import msgspec
from msgspec import Meta, Raw, Struct

from app.domain.models.usage import TokenUsage

_Count = Annotated[int, Meta(ge=0, le=2**53)]


class InputDetails(Struct):
    """What the input tokens were."""

    cached_tokens: _Count | None = None
    cache_write_tokens: _Count | None = None


class OutputDetails(Struct):
    """What the output tokens were."""

    reasoning_tokens: _Count | None = None


class WireUsage(Struct):
    """The `usage` of chat completions and embeddings (`prompt_`, `completion_`) or responses (`input_`, `output_`)."""

    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    prompt_tokens_details: InputDetails | None = None
    completion_tokens_details: OutputDetails | None = None
    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    input_tokens_details: InputDetails | None = None
    output_tokens_details: OutputDetails | None = None


_decode: Final = msgspec.json.Decoder(WireUsage).decode
NOTHING: Final = Raw(b"null")
"""What a member that is not there counts as."""


def tokens_of(member: Raw) -> TokenUsage | None:
    """Return the usage of one call; None when it tells no input tokens, or nothing that can be read."""
    try:
        usage = _decode(member)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    given = usage.prompt_tokens if usage.input_tokens is None else usage.input_tokens
    if given is None:
        return None
    made = usage.completion_tokens if usage.output_tokens is None else usage.output_tokens
    inputs = usage.input_tokens_details or usage.prompt_tokens_details
    outputs = usage.output_tokens_details or usage.completion_tokens_details
    return TokenUsage(
        requests=1,
        input_tokens=given,
        cached_tokens=(inputs and inputs.cached_tokens) or 0,
        cache_write_tokens=(inputs and inputs.cache_write_tokens) or 0,
        output_tokens=made or 0,
        reasoning_tokens=(outputs and outputs.reasoning_tokens) or 0,
    )


def code_of(error: Any) -> str | None:
    """Return the code of an error as upstreams write it, its type when it has none; None for no error."""
    if not error:
        return None
    members = cast("dict[str, Any]", error) if isinstance(error, dict) else {}
    for name in ("code", "type"):
        value = members.get(name)
        if isinstance(value, str | int) and value:
            return str(value)[:64]
    return "upstream_error"


def id_of(value: Any) -> str | None:
    """Return the id of an answer; None for anything that is none."""
    return value if isinstance(value, str) and value else None
