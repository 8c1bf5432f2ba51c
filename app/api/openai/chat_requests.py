"""The body of POST /v1/chat/completions: checked parameter by parameter, and what it asks of a run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from app.api.errors import HttpError
from app.api.json_values import shallow
from app.api.openai.chat_messages import ChatInput
from app.api.openai.chat_stored import kept_of
from app.api.openai.response_faults import fault_of, missing, path_of, refused, unknown, wrong_type, wrong_value
from app.api.openai.response_requests import (
    MAX_METADATA_KEY_CHARS,
    MAX_METADATA_PAIRS,
    MAX_METADATA_VALUE_CHARS,
    PromptCacheParam,
)
from app.api.output_schemas import checked_schema
from app.domain.models.agents import AgentDescriptor
from app.domain.models.conversations import Item
from app.domain.models.runs import RunOptions

MAX_CHOICES: Final = 8
MAX_STOPS: Final = 4
CONVERSATION_KEY: Final = "conversation_id"
"""The pair of `metadata` that joins a call to a conversation."""

_FORMAT_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ANY_OBJECT: Final = {"type": "object"}
"""What `json_object` asks for, as a schema."""

_REFUSED: Final[Mapping[str, str]] = {
    "audio": "agents speak in text.",
    "function_call": "it is deprecated: use tool_choice.",
    "functions": "it is deprecated: use tools.",
    "moderation": "it is not done here; give the agent a guardrail.",
    "prediction": "an agent's answers are not predicted.",
    "web_search_options": "give the agent a tool that searches.",
}

_SETTINGS: Final[Mapping[str, str]] = {
    "frequency_penalty": "frequency_penalty",
    "max_completion_tokens": "max_tokens",
    "max_tokens": "max_tokens",
    "parallel_tool_calls": "parallel_tool_calls",
    "presence_penalty": "presence_penalty",
    "prompt_cache_options": "prompt_cache_options",
    "prompt_cache_retention": "prompt_cache_retention",
    "temperature": "temperature",
    "top_p": "top_p",
    "verbosity": "verbosity",
}
"""Parameters that are settings of every model call of the run."""

_EXTRA_ARGUMENTS: Final = ("logit_bias", "prompt_cache_key", "safety_identifier", "seed", "service_tier", "user")
"""Parameters that the SDK's settings have no field for; they reach the model's endpoint by these names only."""

_CHAT_ONLY: Final[Mapping[str, object]] = {
    "frequency_penalty": 0.0,
    "logit_bias": dict[str, int](),
    "presence_penalty": 0.0,
    "seed": None,
}
"""What an endpoint that is called by the Responses API does not take, with the value that asks for nothing."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ChatStreamParam(_Body):
    """How a stream is sent."""

    include_usage: bool | None = Field(default=None, description="Send the usage in a last chunk without choices.")
    include_obfuscation: bool | None = Field(default=None, description="Chunks are not padded: only false is taken.")


class ChatCompletionCreate(_Body):
    """What a chat completion is asked for with. Anything else that the API has is refused by name."""

    model: str = Field(min_length=1, max_length=255, description="An agent's key.")
    messages: Any = Field(
        description="The conversation so far, as in OpenAI's API.",
        json_schema_extra={"type": "array", "minItems": 1, "items": {"type": "object", "required": ["role"]}},
    )
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: dict[str, int] | None = Field(default=None, max_length=1024)
    logprobs: bool | None = Field(default=None, description="Only false is taken.")
    max_completion_tokens: int | None = Field(default=None, ge=1, description="Of each of the model's answers.")
    max_tokens: int | None = Field(default=None, ge=1, description="The older name of max_completion_tokens.")
    metadata: dict[str, Any] | None = Field(
        default=None, description="At most 16 pairs of texts. `conversation_id` joins the call to a conversation."
    )
    modalities: list[str] | None = Field(default=None, description="Only text is made.")
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES, description="So many runs that know nothing of another.")
    parallel_tool_calls: bool | None = None
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    prompt_cache_key: str | None = Field(default=None, max_length=512)
    prompt_cache_options: PromptCacheParam | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    response_format: dict[str, Any] | None = Field(default=None, description="text, json_object or json_schema.")
    safety_identifier: str | None = Field(default=None, max_length=128)
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    stop: Any = Field(default=None, description="Up to 4 texts that the answer ends before.")
    store: bool | None = Field(default=None, description="Whether to keep the call, as a conversation.")
    stream: bool | None = None
    stream_options: ChatStreamParam | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    tool_choice: Any = Field(default=None, description="none, auto, required, or one of `tools`.")
    tools: list[Any] | None = Field(default=None, description="Functions that the caller executes.")
    top_logprobs: int | None = Field(default=None, ge=0, le=20, description="Only 0 is taken.")
    top_p: float | None = Field(default=None, ge=0, le=1)
    user: str | None = Field(default=None, max_length=512)
    verbosity: Literal["low", "medium", "high"] | None = None


def request_schema() -> dict[str, Any]:
    """Return the JSON schema of a body, without references: it stands in another document."""
    schema = ChatCompletionCreate.model_json_schema()
    parts = schema.pop("$defs")
    for field in schema["properties"].values():
        if "anyOf" in field:
            field["anyOf"] = [
                parts[kind["$ref"].rpartition("/")[2]] if "$ref" in kind else kind for kind in field["anyOf"]
            ]
    return schema


@dataclass(frozen=True, slots=True)
class AskedChat:
    """What a request asks for."""

    model: str
    input: list[Item]
    options: RunOptions
    conversation_id: str | None
    """The conversation that it is joined to; None: a new one."""
    conversation_param: str
    """Where the request names it."""
    kept: bool
    """Whether that stays when the run has ended."""
    choices: int
    stops: tuple[str, ...]
    structured: bool
    """Whether the answer has a form and more than one message can come: then only the last one is the answer."""
    stream: bool
    include_usage: bool

    @property
    def tool_names(self) -> frozenset[str]:
        """The names of the tools that the caller executes."""
        return frozenset(str(tool["name"]) for tool in self.options.client_tools)


def asked_chat(body: Mapping[str, Any], agent: AgentDescriptor, *, endpoint: str, joined: str | None) -> AskedChat:
    """Check a body and return what it asks for.

    `endpoint` is the API by which models are called, `responses` or `chat_completions`; `joined` is the conversation
    that a header names.

    Raises:
        HttpError: 400; `param` is the path of what is wrong.
    """
    for name, reason in _REFUSED.items():
        if body.get(name) is not None:
            raise refused(name, reason)
    try:
        request = ChatCompletionCreate.model_validate(
            shallow({name: value for name, value in body.items() if name not in _REFUSED})
        )
    except ValidationError as error:
        raise fault_of(error) from error
    except PydanticCustomError as error:
        raise HttpError(400, "invalid_value", "The body is nested too deeply.") from error
    _check_refusals(request, endpoint)
    metadata = checked_metadata(request.metadata or {})
    named = f"metadata.{CONVERSATION_KEY}" if CONVERSATION_KEY in metadata else "X-Conversation-Id"
    conversation_id = _conversation(metadata.pop(CONVERSATION_KEY, None), joined)
    choices = request.n or 1
    kept = request.store is True or conversation_id is not None
    if choices > 1 and kept:
        raise wrong_value("n", "a call that is kept in a conversation has one answer.")
    if request.store is False and conversation_id is not None:
        raise wrong_value("store", "a call that is joined to a conversation is kept in it.")
    tools = _tools(request.tools or [])
    schema = _schema(request.response_format)
    instructions, items = _input(ChatInput(request.messages), conversation_id, kept=kept)
    stops = _stops(request.stop)
    has_form = schema is not None or agent.output_schema is not None
    structured = has_form and bool(agent.tools or agent.handoffs or tools)
    options = RunOptions(
        model_settings=_settings(request, frozenset(str(tool["name"]) for tool in tools)),
        metadata=metadata,
        output_schema=schema,
        instructions=instructions,
        client_tools=tools,
        surface=kept_of(agent.key, stops, structured=structured, opened=conversation_id is None) if kept else {},
    )
    return AskedChat(
        model=agent.key,
        input=items,
        options=options,
        conversation_id=conversation_id,
        conversation_param=named,
        kept=kept,
        choices=choices,
        stops=stops,
        structured=structured,
        stream=request.stream is True,
        include_usage=request.stream_options is not None and request.stream_options.include_usage is True,
    )


def _input(messages: ChatInput, conversation_id: str | None, *, kept: bool) -> tuple[str | None, list[Item]]:
    if conversation_id is not None:
        return messages.new()
    return messages.kept() if kept else (None, messages.whole())


def _check_refusals(request: ChatCompletionCreate, endpoint: str) -> None:
    """Refuse values that are in the API and not here."""
    if request.logprobs:
        raise refused("logprobs", "agents do not tell how likely their words are.")
    if request.top_logprobs:
        raise refused("top_logprobs", "agents do not tell how likely their words are.")
    if request.modalities is not None and request.modalities != ["text"]:
        raise refused("modalities", "agents speak in text.")
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        message = "Mutually exclusive parameters: 'max_tokens' and 'max_completion_tokens'."
        raise HttpError(400, "mutually_exclusive_parameters", message, param="max_tokens")
    if endpoint != "chat_completions":
        given = (name for name, nothing in _CHAT_ONLY.items() if getattr(request, name) not in (None, nothing))
        for name in given:
            raise refused(name, "the model is called by the Responses API, which does not have it.")
    options = request.stream_options
    if options is not None and not request.stream:
        raise wrong_value("stream_options", "it is for requests with stream=true only.")
    if options is not None and options.include_obfuscation:
        raise refused("stream_options.include_obfuscation", "chunks are not padded here.")


def _conversation(in_metadata: str | None, in_header: str | None) -> str | None:
    if in_metadata is not None and in_header not in {None, in_metadata}:
        raise wrong_value(f"metadata.{CONVERSATION_KEY}", "the header X-Conversation-Id names another conversation.")
    return in_header if in_metadata is None else in_metadata


def checked_metadata(given: Mapping[str, Any]) -> dict[str, str]:
    """Return metadata unchanged.

    Raises:
        HttpError: they are too many or too long, or no texts (400).
    """
    if len(given) > MAX_METADATA_PAIRS:
        raise wrong_value("metadata", f"at most {MAX_METADATA_PAIRS} pairs are kept.")
    for key, value in given.items():
        param = f"metadata.{path_of((key[:MAX_METADATA_KEY_CHARS],))}"
        if not isinstance(value, str):
            raise wrong_type(param, "a string", value)
        if len(value) > MAX_METADATA_VALUE_CHARS:
            raise wrong_value(param, f"a value is at most {MAX_METADATA_VALUE_CHARS} characters long.")
        if len(key) > MAX_METADATA_KEY_CHARS:
            raise wrong_value(param, f"a key is at most {MAX_METADATA_KEY_CHARS} characters long.")
    return dict(given)


def _tools(given: list[Any]) -> tuple[Mapping[str, Any], ...]:
    """Return the tools as the Responses format has them."""
    tools: list[Mapping[str, Any]] = []
    for index, tool in enumerate(given):
        param = f"tools[{index}]"
        if not isinstance(tool, Mapping):
            raise wrong_type(param, "an object", tool)
        kind = tool.get("type")
        if kind is None:
            raise missing(f"{param}.type")
        if kind != "function":
            raise refused(f"{param}.type", f"tools of type '{str(kind)[:40]}' are not supported, only functions are.")
        _only(tool, param, frozenset({"type", "function"}))
        function = tool.get("function")
        if function is None:
            raise missing(f"{param}.function")
        if not isinstance(function, Mapping):
            raise wrong_type(f"{param}.function", "an object", function)
        param = f"{param}.function"
        _only(function, param, frozenset({"name", "description", "parameters", "strict"}))
        name = function.get("name")
        if name is None:
            raise missing(f"{param}.name")
        if not isinstance(name, str) or _FORMAT_NAME.fullmatch(name) is None:
            raise wrong_value(f"{param}.name", "1 to 64 letters, digits, underscores and dashes are needed.")
        tools.append({"type": "function", **{key: value for key, value in function.items() if value is not None}})
    return tuple(tools)


def _schema(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the schema that an answer must follow, if there is one."""
    if given is None:
        return None
    kind = given.get("type")
    if kind is None:
        raise missing("response_format.type")
    if kind not in ("text", "json_object", "json_schema"):
        raise wrong_value("response_format.type", "supported values are text, json_object and json_schema.")
    _only(given, "response_format", frozenset({"type", "json_schema"} if kind == "json_schema" else {"type"}))
    if kind != "json_schema":
        return None if kind == "text" else dict(_ANY_OBJECT)
    param = "response_format.json_schema"
    inside = given.get("json_schema")
    if inside is None:
        raise missing(param)
    if not isinstance(inside, Mapping):
        raise wrong_type(param, "an object", inside)
    _only(inside, param, frozenset({"name", "schema", "strict", "description"}))
    name, schema = inside.get("name"), inside.get("schema")
    if not isinstance(name, str) or _FORMAT_NAME.fullmatch(name) is None:
        raise wrong_value(f"{param}.name", "1 to 64 letters, digits, underscores and dashes are needed.")
    for field, expected in (("strict", bool), ("description", str)):
        if inside.get(field) is not None and not isinstance(inside[field], expected):
            raise wrong_type(f"{param}.{field}", "a boolean" if expected is bool else "a string", inside[field])
    if schema is None:
        raise missing(f"{param}.schema")
    if not isinstance(schema, dict):
        raise wrong_type(f"{param}.schema", "an object", schema)
    try:
        return checked_schema(cast("dict[str, Any]", schema))
    except PydanticCustomError as error:
        raise wrong_value(f"{param}.schema", f"{error.message()}.") from error


def _stops(given: object) -> tuple[str, ...]:
    if given is None:
        return ()
    if not isinstance(given, str | list):
        raise wrong_type("stop", "a string or an array of strings", given)
    stops = [given] if isinstance(given, str) else cast("list[object]", given)
    if not 1 <= len(stops) <= MAX_STOPS:
        raise wrong_value("stop", f"1 to {MAX_STOPS} texts are needed.")
    for index, stop in enumerate(stops):
        if not isinstance(stop, str):
            raise wrong_type(f"stop[{index}]", "a string", stop)
        if not 1 <= len(stop) <= MAX_METADATA_VALUE_CHARS:
            raise wrong_value("stop", f"a text is 1 to {MAX_METADATA_VALUE_CHARS} characters long.")
    return tuple(cast("list[str]", stops))


def _settings(request: ChatCompletionCreate, tools: frozenset[str]) -> dict[str, Any]:
    """Return the settings of the run's model calls, by the SDK's names."""
    asked = request.model_dump(exclude_none=True, include={*_SETTINGS, *_EXTRA_ARGUMENTS})
    settings = {setting: asked[name] for name, setting in _SETTINGS.items() if name in asked}
    if request.tool_choice is not None:
        settings["tool_choice"] = _tool_choice(request.tool_choice, tools)
    if request.reasoning_effort is not None:
        settings["reasoning"] = {"effort": request.reasoning_effort}
    extra = {name: asked[name] for name in _EXTRA_ARGUMENTS if asked.get(name) not in (None, {})}
    if extra:
        settings["extra_args"] = extra
    return settings


def _tool_choice(given: Any, names: frozenset[str]) -> str:
    if isinstance(given, str):
        if given not in {"none", "auto", "required"}:
            raise wrong_value("tool_choice", "supported values are none, auto and required, or a function of `tools`.")
        return given
    if not isinstance(given, Mapping):
        raise wrong_type("tool_choice", "a string or an object", given)
    if given.get("type") != "function":
        raise refused("tool_choice.type", "only a function of `tools` can be chosen.")
    _only(given, "tool_choice", frozenset({"type", "function"}))
    function = given.get("function")
    if not isinstance(function, Mapping):
        raise (
            missing("tool_choice.function")
            if function is None
            else wrong_type("tool_choice.function", "an object", function)
        )
    _only(function, "tool_choice.function", frozenset({"name"}))
    name = function.get("name")
    if not isinstance(name, str) or name not in names:
        raise wrong_value("tool_choice.function.name", "there is no such function in `tools`.")
    return name


def _only(given: Mapping[Any, Any], param: str, names: frozenset[str]) -> None:
    for name, value in given.items():
        if value is not None and name not in names:
            raise unknown(f"{param}.{path_of((str(name),))}")
