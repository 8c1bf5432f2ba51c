"""The body of POST /v1/responses: checked parameter by parameter, and what it asks of a run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from openai.types.responses import ResponseIncludable
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from app.api.errors import HttpError
from app.api.json_values import shallow
from app.api.openai.response_faults import fault_of, missing, refused, unknown, wrong_type, wrong_value
from app.api.openai.response_ids import ResponseId, parsed_response_id
from app.api.openai.response_inputs import AskedInput, asked_input
from app.api.openai.response_objects import SAID_BACK, SAID_BACK_IF_GIVEN, kept_of
from app.api.output_schemas import checked_schema
from app.domain.models.runs import RunOptions

MAX_METADATA_PAIRS: Final = 16
MAX_METADATA_KEY_CHARS: Final = 64
MAX_METADATA_VALUE_CHARS: Final = 512

_FORMAT_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TOOL_FIELDS: Final = frozenset({"type", "name", "description", "parameters", "strict"})

_REFUSED: Final[Mapping[str, str]] = {
    "access_programs": "there are none here.",
    "context_management": "an agent manages what its model sees by itself.",
    "image": "images are passed on as they are.",
    "max_tool_calls": "calls of tools are not counted; the agent's own limit of turns holds.",
    "moderation": "it is not done here; give the agent a guardrail.",
    "prompt": "stored prompts are part of an agent, not of a request.",
}

_SETTINGS: Final[Mapping[str, str]] = {
    "include": "response_include",
    "max_output_tokens": "max_tokens",
    "parallel_tool_calls": "parallel_tool_calls",
    "prompt_cache_options": "prompt_cache_options",
    "prompt_cache_retention": "prompt_cache_retention",
    "reasoning": "reasoning",
    "temperature": "temperature",
    "top_logprobs": "top_logprobs",
    "top_p": "top_p",
    "truncation": "truncation",
}
"""Parameters that are settings of every model call of the run."""

_EXTRA_ARGUMENTS: Final = ("prompt_cache_key", "safety_identifier", "service_tier", "user")
"""Parameters that the SDK's settings have no field for; they reach the model's endpoint by these names only."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ReasoningParam(_Body):
    """How much the model thinks, and what is told of it."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class TextParam(_Body):
    """What form the answer has."""

    format: dict[str, Any] | None = Field(default=None, description="`text`, or `json_schema` with its schema.")
    verbosity: Literal["low", "medium", "high"] | None = None


class PromptCacheParam(_Body):
    """How the model's endpoint caches prompts."""

    mode: Literal["implicit", "explicit"] | None = None
    ttl: Literal["30m", "12h"] | None = None


class StreamParam(_Body):
    """How a stream is sent."""

    include_obfuscation: bool | None = Field(default=None, description="Pad deltas with random text; unset: false.")


class ResponseCreate(_Body):
    """What a response is asked for with. Anything else that the API has is refused by name."""

    model: str | None = Field(default=None, min_length=1, max_length=255, description="An agent's key.")
    input: Any = Field(default=None, description="A text, or items of the Responses format.")
    background: bool | None = None
    conversation: Any = Field(default=None, description="`conv_...`, or an object with such an `id`.")
    include: list[ResponseIncludable] | None = None
    instructions: str | None = Field(default=None, description="Added to the agent's own, for this response only.")
    max_output_tokens: int | None = Field(default=None, ge=1, description="Of each of the model's answers.")
    metadata: dict[str, Any] | None = Field(default=None, description="At most 16 pairs of texts.")
    parallel_tool_calls: bool | None = None
    previous_response_id: str | None = None
    prompt_cache_key: str | None = Field(default=None, max_length=512)
    prompt_cache_options: PromptCacheParam | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    reasoning: ReasoningParam | None = None
    safety_identifier: str | None = Field(default=None, max_length=128)
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamParam | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    text: TextParam | None = None
    tool_choice: Any = Field(default=None, description="none, auto, required, or one of `tools`.")
    tools: list[Any] | None = Field(default=None, description="Functions that the caller executes.")
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    top_p: float | None = Field(default=None, ge=0, le=1)
    truncation: Literal["auto", "disabled"] | None = None
    user: str | None = Field(default=None, max_length=512)


def request_schema() -> dict[str, Any]:
    """Return the JSON schema of a body, without references: it stands in another document."""
    schema = ResponseCreate.model_json_schema()
    parts = schema.pop("$defs")
    return {**_inlined(schema, parts), "required": ["input"]}  # answers to approvals need no model


def _inlined(node: Any, parts: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_inlined(item, parts) for item in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    reference = cast("dict[str, Any]", node).get("$ref")
    if isinstance(reference, str):
        return _inlined(parts[reference.rpartition("/")[2]], parts)
    return {name: _inlined(value, parts) for name, value in cast("dict[str, Any]", node).items()}


@dataclass(frozen=True, slots=True)
class AskedResponse:
    """What a request asks for."""

    model: str
    """The key of an agent; empty for answers to a run that waits, which has one."""
    asked: AskedInput
    options: RunOptions
    given: Mapping[str, Any]
    """What the request set of what a Response says back."""
    stream: bool
    padded: bool
    """Whether the deltas of the stream are padded."""
    background: bool
    store: bool
    previous: ResponseId | None
    conversation_id: str | None


def asked_response(body: Mapping[str, Any], model: str) -> AskedResponse:
    """Check a body and return what it asks for; see there for `model`.

    Raises:
        HttpError: 400; `param` is the path of what is wrong.
    """
    for name, reason in _REFUSED.items():
        if body.get(name) is not None:
            raise refused(name, reason)
    try:
        request = ResponseCreate.model_validate(shallow(dict(body)))
    except ValidationError as error:
        raise fault_of(error) from error
    except PydanticCustomError as error:
        raise HttpError(400, "invalid_value", "The body is nested too deeply.") from error
    _check_stream(request)
    conversation_id = _conversation(request)
    previous = request.previous_response_id
    tools = _tools(request.tools or [])
    schema, format_given = _format(request.text)
    given = _given(request, tools, format_given, conversation_id)
    options = RunOptions(
        model_settings=_settings(request, given),
        metadata=_metadata(request.metadata or {}),
        output_schema=schema,
        instructions=request.instructions,
        client_tools=tools,
        surface=kept_of(model, given, schema),
    )
    return AskedResponse(
        model=model,
        asked=asked_input(request.input, continues=previous is not None or conversation_id is not None),
        options=options,
        given=given,
        stream=request.stream is True,
        padded=request.stream_options is not None and request.stream_options.include_obfuscation is True,
        background=request.background is True,
        store=request.store is not False,
        previous=None if previous is None else parsed_response_id(previous, "previous_response_id"),
        conversation_id=conversation_id,
    )


def _check_stream(request: ResponseCreate) -> None:
    if request.background and request.store is False:
        raise wrong_value("background", "a background response is stored; it cannot go with store=false.")
    if request.stream_options is not None and not request.stream:
        raise wrong_value("stream_options", "it is for requests with stream=true only.")
    if request.conversation is not None and request.previous_response_id is not None:
        message = "Mutually exclusive parameters: 'previous_response_id' and 'conversation'."
        raise HttpError(400, "mutually_exclusive_parameters", message, param="previous_response_id")


def _conversation(request: ResponseCreate) -> str | None:
    given = request.conversation
    if isinstance(given, Mapping):
        for name in given:
            if name != "id":
                raise unknown(f"conversation.{str(name)[:40]}")
        given = given.get("id")
        if not isinstance(given, str):
            raise wrong_type("conversation.id", "a string", given)
    elif given is not None and not isinstance(given, str):
        raise wrong_type("conversation", "a string or an object", given)
    return given


def _metadata(given: Mapping[str, Any]) -> dict[str, str]:
    if len(given) > MAX_METADATA_PAIRS:
        raise wrong_value("metadata", f"at most {MAX_METADATA_PAIRS} pairs are kept.")
    for key, value in given.items():
        param = f"metadata.{key[:MAX_METADATA_KEY_CHARS]}"
        if not isinstance(value, str):
            raise wrong_type(param, "a string", value)
        if len(value) > MAX_METADATA_VALUE_CHARS:
            raise wrong_value(param, f"a value is at most {MAX_METADATA_VALUE_CHARS} characters long.")
        if len(key) > MAX_METADATA_KEY_CHARS:
            raise wrong_value(param, f"a key is at most {MAX_METADATA_KEY_CHARS} characters long.")
    return dict(given)


def _tools(given: list[Any]) -> tuple[Mapping[str, Any], ...]:
    tools: list[Mapping[str, Any]] = []
    for index, tool in enumerate(given):
        param = f"tools[{index}]"
        if not isinstance(tool, Mapping):
            raise wrong_type(param, "an object", tool)
        kind = tool.get("type")
        if kind is None:
            raise missing(f"{param}.type")
        if kind != "function":
            message = f"tools of type '{str(kind)[:40]}' are not supported: the agent has its own, and takes functions."
            raise HttpError(400, "unsupported_value", f"Unsupported value: {message}", param=f"{param}.type")
        if tool.get("name") is None:
            raise missing(f"{param}.name")
        extra = next((name for name, value in tool.items() if value is not None and name not in _TOOL_FIELDS), None)
        if extra is not None:
            raise refused(f"{param}.{str(extra)[:40]}", "functions are called as they are.")
        tools.append({str(name): value for name, value in tool.items() if value is not None})
    return tuple(tools)


def _format(text: TextParam | None) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return the schema that an answer must follow, if there is one, and the format as a Response says it back."""
    given = None if text is None else text.format
    if given is None or given == {"type": "text"}:
        return None, None
    kind = given.get("type")
    if kind is None:
        raise missing("text.format.type")
    if kind != "json_schema":
        message = "only 'text' and 'json_schema' are supported."
        raise HttpError(400, "unsupported_value", f"Unsupported value: {message}", param="text.format.type")
    name, schema = given.get("name"), given.get("schema")
    if not isinstance(name, str) or _FORMAT_NAME.fullmatch(name) is None:
        raise wrong_value("text.format.name", "1 to 64 letters, digits, underscores and dashes are needed.")
    if not isinstance(schema, dict):
        raise missing("text.format.schema") if schema is None else wrong_type("text.format.schema", "an object", schema)
    for field, expected in (("strict", bool), ("description", str)):
        if given.get(field) is not None and not isinstance(given[field], expected):
            raise wrong_type(f"text.format.{field}", "a boolean" if expected is bool else "a string", given[field])
    extra = next((field for field in given if field not in {"type", "name", "schema", "strict", "description"}), None)
    if extra is not None:
        raise unknown(f"text.format.{extra[:40]}")
    try:
        checked = checked_schema(cast("dict[str, Any]", schema))
    except PydanticCustomError as error:
        raise wrong_value("text.format.schema", f"{error.message()}.") from error
    said = {"type": kind, "name": name, "schema": checked, "strict": given.get("strict") is not False}
    return checked, {**said, "description": given["description"]} if given.get("description") else said


def _given(
    request: ResponseCreate,
    tools: tuple[Mapping[str, Any], ...],
    answer_format: Mapping[str, Any] | None,
    conversation_id: str | None,
) -> dict[str, Any]:
    """Return what the request sets of what a Response says back."""
    set_here = request.model_dump(exclude_none=True)
    given = {name: set_here[name] for name in (*SAID_BACK, *SAID_BACK_IF_GIVEN) if name in set_here}
    if conversation_id is not None:
        given["conversation"] = {"id": conversation_id}
    if request.tool_choice is not None:
        given["tool_choice"] = _tool_choice(request.tool_choice, frozenset(tool["name"] for tool in tools))
    if request.text is not None:
        verbosity = {} if request.text.verbosity is None else {"verbosity": request.text.verbosity}
        given["text"] = {"format": answer_format or {"type": "text"}, **verbosity}
    return given


def _tool_choice(given: Any, names: frozenset[Any]) -> Any:
    if isinstance(given, str):
        if given not in {"none", "auto", "required"}:
            raise wrong_value("tool_choice", "supported values are none, auto and required, or a function of `tools`.")
        return given
    if not isinstance(given, Mapping):
        raise wrong_type("tool_choice", "a string or an object", given)
    if given.get("type") != "function":
        message = "Unsupported value: only a function of `tools` can be chosen."
        raise HttpError(400, "unsupported_value", message, param="tool_choice.type")
    if given.get("name") not in names:
        raise wrong_value("tool_choice.name", "there is no such function in `tools`.")
    return {"type": "function", "name": given["name"]}


def _settings(request: ResponseCreate, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the run's model calls, by the SDK's names."""
    asked = request.model_dump(exclude_none=True)
    settings = {setting: asked[name] for name, setting in _SETTINGS.items() if name in asked}
    choice = given.get("tool_choice")
    if choice is not None:
        settings["tool_choice"] = choice if isinstance(choice, str) else choice["name"]
    if request.text is not None and request.text.verbosity is not None:
        settings["verbosity"] = request.text.verbosity
    extra = {name: asked[name] for name in _EXTRA_ARGUMENTS if name in asked}
    if extra:
        settings["extra_args"] = extra
    return settings
