"""The SDK's hosted tools from declared options, checked at start-up against the SDK's own types."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final, NoReturn, cast

from agents import CodeInterpreterTool, FileSearchTool, HostedMCPTool, ImageGenerationTool, Tool, WebSearchTool
from agents.tool import ImageGenerationToolConfig, MCPToolApprovalFunction
from openai.types.responses.tool_param import CodeInterpreter, ImageGeneration, Mcp
from pydantic import TypeAdapter, ValidationError
from typing_extensions import get_type_hints

from app.domain.errors import ConfigurationError
from app.domain.models.agents import HostedToolSpec

_SHAPES: Final[Mapping[str, tuple[type[Any], ...]]] = {
    "web_search": (WebSearchTool,),
    "file_search": (FileSearchTool,),
    "code_interpreter": (CodeInterpreter,),
    # The SDK's type knows newer qualities, the client's type knows more fields: an option may be either's.
    "image_generation": (ImageGenerationToolConfig, ImageGeneration),
    "hosted_mcp": (Mcp,),
}
_REQUIRED: Final[Mapping[str, str]] = {"file_search": "vector_store_ids", "hosted_mcp": "server_label"}
_RANGES: Final[Mapping[tuple[str, str], tuple[int, int]]] = {
    ("file_search", "max_num_results"): (1, 50),
    ("image_generation", "output_compression"): (0, 100),
    ("image_generation", "partial_images"): (0, 3),
}
"""Bounds that the API documents and its types do not carry, both ends included."""
_IMAGE_SIZE: Final = re.compile(r"auto|[1-9]\d{1,4}x[1-9]\d{1,4}")


def hosted_tool(spec: HostedToolSpec, *, agent: str) -> Tool:
    """Return the SDK's tool; `type` never has to be among the options.

    `code_interpreter` without a container gets an automatic one. `hosted_mcp` takes the fields of the MCP tool
    (`server_label`, `server_url`, ...) and the SDK's `on_approval_request`.

    Raises:
        ConfigurationError: an option is unknown, missing, or wrong; the message names agent, tool and option.
    """
    if spec.kind not in _SHAPES:
        raise ConfigurationError(
            f"Agent '{agent}': there is no hosted tool '{spec.kind}'. Use one of: {', '.join(_SHAPES)}."
        )
    options = dict(spec.options)
    match spec.kind:
        case "web_search":
            return WebSearchTool(**_checked(spec, options, agent))
        case "file_search":
            return FileSearchTool(**_checked(spec, options, agent))
        case "code_interpreter":
            options = {"type": "code_interpreter", "container": {"type": "auto"}, **options}
            return CodeInterpreterTool(tool_config=cast("CodeInterpreter", _checked(spec, options, agent)))
        case "image_generation":
            options = _checked(spec, {"type": "image_generation", **options}, agent)
            return ImageGenerationTool(tool_config=cast("ImageGenerationToolConfig", options))
        case "hosted_mcp":
            return _hosted_mcp(spec, options, agent)


def _hosted_mcp(spec: HostedToolSpec, options: dict[str, Any], agent: str) -> HostedMCPTool:
    approve: Any = options.pop("on_approval_request", None)
    if approve is not None and not callable(approve):
        _refuse(spec, agent, "on_approval_request", "it must be a function")
    config = _checked(spec, {"type": "mcp", **options}, agent)
    if not any(config.get(name) for name in ("server_url", "connector_id", "tunnel_id")):
        _refuse(spec, agent, "server_url", "give it, or `connector_id`, or `tunnel_id`")
    return HostedMCPTool(
        tool_config=cast("Mcp", config), on_approval_request=cast("MCPToolApprovalFunction | None", approve)
    )


def _checked(spec: HostedToolSpec, options: dict[str, Any], agent: str) -> dict[str, Any]:
    """Return the options as they came, once each has passed the type of the SDK's field of that name."""
    adapters = _adapters(spec.kind)
    required = _REQUIRED.get(spec.kind)
    if required is not None and not options.get(required):
        _refuse(spec, agent, required, "it is required")
    for name, value in options.items():
        if name not in adapters:
            known = ", ".join(sorted(set(adapters) - {"type"}))
            _refuse(spec, agent, name, f"there is no such option; known options: {known}")
        try:
            accepted = adapters[name].validate_python(value)
        except ValidationError as error:
            _refuse(spec, agent, name, _reasons(error, value), error)
        if dropped := _dropped(value, accepted):
            _refuse(spec, agent, f"{name}.{dropped}", "there is no such option")
        _check_bounds(spec, agent, name, value)
    return options


def _reasons(error: ValidationError, value: Any) -> str:
    """Say what is wrong with a value; one that fits none of several types has a reason for each."""
    reasons: dict[str, None] = {}
    for detail in error.errors(include_url=False):
        place = str(detail["loc"][-1]) if detail["loc"] else ""
        # Locations name types too; only what the user wrote is worth showing.
        reasons[f"{detail['msg']} (at {place})" if f"'{place}'" in repr(value) else detail["msg"]] = None
    return " / ".join(reasons)


@cache
def _adapters(kind: str) -> Mapping[str, TypeAdapter[Any]]:
    """Return what validates each option of a kind, by name."""
    annotations: dict[str, Any] = {}
    for shape in _SHAPES[kind]:
        for name, annotation in get_type_hints(shape).items():
            annotations[name] = annotations[name] | annotation if name in annotations else annotation
    return {name: TypeAdapter(annotation) for name, annotation in annotations.items()}


def _check_bounds(spec: HostedToolSpec, agent: str, name: str, value: Any) -> None:
    if value is None:
        return
    low, high = _RANGES.get((spec.kind, name), (None, None))
    if low is not None and high is not None and not low <= value <= high:
        _refuse(spec, agent, name, f"it must be between {low} and {high}")
    if (spec.kind, name) == ("image_generation", "size") and not _IMAGE_SIZE.fullmatch(value):
        _refuse(spec, agent, name, "it must be 'auto' or a size as in '1024x1024'")


def _dropped(given: Any, accepted: Any) -> str | None:
    """Return the path of the first nested key that the type does not have: validation drops those in silence."""
    if isinstance(given, Mapping) and isinstance(accepted, Mapping):
        for key, value in cast("Mapping[str, Any]", given).items():
            if key not in accepted:
                return key
            if path := _dropped(value, accepted[key]):
                return f"{key}.{path}"
    elif isinstance(given, list) and isinstance(accepted, list):
        pairs = zip(cast("Sequence[Any]", given), cast("Sequence[Any]", accepted), strict=False)
        return next((path for one, other in pairs if (path := _dropped(one, other))), None)
    return None


def _refuse(spec: HostedToolSpec, agent: str, option: str, reason: str, cause: Exception | None = None) -> NoReturn:
    raise ConfigurationError(
        f"Agent '{agent}': the option '{option}' of its hosted tool '{spec.kind}' is wrong: {reason}. "
        "Correct the `options` of its HostedToolSpec."
    ) from cause
