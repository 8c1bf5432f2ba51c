"""The Response object: what a request asked for, said back, around what its run has made so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from app.api.openai.response_ids import ResponseId
from app.domain.models.runs import RunOptions
from app.domain.models.usage import TokenUsage

SAID_BACK: Final[Mapping[str, Any]] = {
    "background": False,
    "max_output_tokens": None,
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": None,
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
}
"""What a Response says back of its request, and what it says where the request said nothing."""

SAID_BACK_IF_GIVEN: Final = ("conversation", "prompt_cache_options", "prompt_cache_retention", "user")
"""Left out of a Response whose request did not have them."""

_MODEL: Final = "response_model"

Status = Literal["queued", "in_progress", "completed", "failed", "cancelled", "incomplete"]


@dataclass(frozen=True, slots=True)
class ResponseEnd:
    """How a response stands or ended."""

    status: Status
    error: Mapping[str, Any] | None = None
    incomplete: str | None = None
    """Why it is incomplete, in OpenAI's words."""
    usage: TokenUsage | None = None
    """None while it goes on."""
    finished_at: int | None = None
    """Seconds since 1970; None unless it is completed."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """What of a Response does not change while its run goes on."""

    id: ResponseId
    model: str
    given: Mapping[str, Any]
    """What the request set, of `SAID_BACK` and `SAID_BACK_IF_GIVEN`."""
    metadata: Mapping[str, Any]
    instructions: str | None
    tools: Sequence[Mapping[str, Any]]

    @property
    def tool_names(self) -> frozenset[str]:
        """The names of the tools that the caller executes."""
        return frozenset(str(tool.get("name")) for tool in self.tools)

    def response(self, end: ResponseEnd, output: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
        """Return the Response object."""
        given = self.given
        said = {name: given.get(name, default) for name, default in SAID_BACK.items()}
        said |= {name: given[name] for name in SAID_BACK_IF_GIVEN if name in given}
        if end.status in {"completed", "incomplete"}:
            said["completed_at"] = end.finished_at if end.status == "completed" else None
        return {
            "id": str(self.id),
            "object": "response",
            "created_at": self.id.created_at,
            "completed_at": None,
            "status": end.status,
            "error": end.error,
            "incomplete_details": None if end.incomplete is None else {"reason": end.incomplete},
            "instructions": self.instructions,
            "max_tool_calls": None,
            "model": self.model,
            "output": list(output),
            "tools": [{"parameters": None, "strict": None, **tool} for tool in self.tools],
            "frequency_penalty": 0.0,
            "presence_penalty": 0.0,
            "usage": None if end.usage is None else usage_object(end.usage),
            "metadata": dict(self.metadata),
            **said,
        }

    def of_part(self, part: int) -> "ResponseHead":
        """Return the head of another part of the same run."""
        return replace(self, id=replace(self.id, part=part))


def kept_of(model: str, given: Mapping[str, Any], schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a run keeps so that any replica can say the whole Response: its `surface`.

    Instructions, tools, metadata and the schema of the answer are options of the run already, and are not kept twice.
    """
    kept = {_MODEL: model, **given}
    if schema is not None:
        text = given["text"]
        kept["text"] = {**text, "format": {key: value for key, value in text["format"].items() if key != "schema"}}
    return kept


def head_of(response_id: ResponseId, options: RunOptions) -> ResponseHead | None:
    """Return the head of a response from its run's options; None when the run was not asked for as a response."""
    model = options.surface.get(_MODEL)
    if not isinstance(model, str):
        return None
    given = {name: value for name, value in options.surface.items() if name != _MODEL}
    text = given.get("text")
    if isinstance(text, Mapping) and options.output_schema is not None:
        given["text"] = {**text, "format": {**text["format"], "schema": dict(options.output_schema)}}
    return ResponseHead(
        id=response_id,
        model=model,
        given=given,
        metadata=options.metadata,
        instructions=options.instructions,
        tools=options.client_tools,
    )


def usage_object(tokens: TokenUsage) -> dict[str, Any]:
    """Return a Response's `usage`."""
    return {
        "input_tokens": tokens.input_tokens,
        "input_tokens_details": {
            "cached_tokens": tokens.cached_tokens,
            "cache_write_tokens": tokens.cache_write_tokens,
        },
        "output_tokens": tokens.output_tokens,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning_tokens},
        "total_tokens": tokens.total_tokens,
    }
