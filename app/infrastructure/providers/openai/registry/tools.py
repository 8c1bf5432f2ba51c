"""Tools of declared agents: by name, as a typed function, or hosted."""

import inspect
import logging
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

from agents import FunctionTool, Tool, UserError, function_tool
from pydantic.errors import PydanticUserError

from app.domain.errors import ConfigurationError
from app.domain.models.agents import AgentSpec, HostedToolSpec, ToolSpec
from app.domain.models.tools import declared_approval
from app.infrastructure.providers.openai.registry.hosted import hosted_tool

_LOGGER: Final = logging.getLogger(__name__)
_TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ToolCatalog:
    """The functions that agents may name, and the SDK tools made of them."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        """Take the functions by tool name; each becomes a tool when the first agent names it."""
        self._functions = dict(functions)
        # One tool object a name: the SDK never changes it, and its schema is built once.
        self._named = cache(self._make_named)

    def tools_of(self, spec: AgentSpec) -> list[Tool]:
        """Return the tools of an agent in declared order, the optional ones that exist last.

        An optional tool that is not registered is logged as a warning and left out.

        Raises:
            ConfigurationError: an unknown name, a function without types or docstring, or a wrong hosted option.
        """
        tools = [self._tool(tool, spec.key) for tool in spec.tools]
        for name in spec.optional_tools:
            if name in self._functions:
                tools.append(self._named(name))
            else:
                _LOGGER.warning("Agent '%s' goes without its optional tool '%s': it is not registered.", spec.key, name)
        return tools

    def _tool(self, tool: ToolSpec, agent: str) -> Tool:
        if isinstance(tool, HostedToolSpec):
            return hosted_tool(tool, agent=agent)
        if not isinstance(tool, str):
            return build_function_tool(tool, getattr(tool, "__name__", type(tool).__name__), f"Agent '{agent}'")
        if tool not in self._functions:
            known = ", ".join(sorted(self._functions)) or "none"
            raise ConfigurationError(
                f"Agent '{agent}' names the tool '{tool}', which is not registered. Known tools: {known}. "
                "Register it (one file in the tools folder), correct the name, or list it under `optional_tools`."
            )
        return self._named(tool)

    def _make_named(self, name: str) -> FunctionTool:
        return build_function_tool(self._functions[name], name, "The tools")


def build_function_tool(function: Callable[..., Any], name: str, owner: str) -> FunctionTool:
    """Return the SDK's tool of a typed function: strict schema, description and parameters from the docstring.

    The first parameter may be the SDK's `RunContextWrapper` or `ToolContext`. `owner` begins error messages.

    Raises:
        ConfigurationError: the name, a missing type or docstring, or a type that no strict schema can express.
    """
    check_tool_function(function, name, owner)
    try:
        tool = function_tool(function, name_override=name, strict_mode=True, needs_approval=declared_approval(function))
    except (UserError, PydanticUserError, TypeError, NameError, ValueError) as error:
        raise ConfigurationError(
            f"{owner}: no strict schema can be made for the tool '{name}': {_first_line(error)} "
            "Give its parameters concrete types (str, int, float, bool, Literal, list, a pydantic model)."
        ) from error
    tool.params_json_schema = _without_defaults(tool.params_json_schema)
    return tool


def _without_defaults(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a strict schema without default values: OpenAI's API refuses them, every parameter being required."""
    kept: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in {"properties", "$defs"}:
            kept[keyword] = {name: _without_defaults(inner) for name, inner in value.items()}
        elif keyword == "items":
            kept[keyword] = _without_defaults(value)
        elif keyword in {"anyOf", "oneOf", "allOf"}:
            kept[keyword] = [_without_defaults(inner) for inner in value]
        elif keyword != "default":
            kept[keyword] = value
    return kept


def check_tool_function(function: Callable[..., Any], name: str, owner: str) -> None:
    """Check that a function can be a tool: a callable with a good name, a docstring, and types for all parameters.

    Raises:
        ConfigurationError: what is missing, beginning with `owner`.
    """
    if not callable(function):
        raise ConfigurationError(
            f"{owner}: the tool '{name}' is a {type(function).__name__}. Register the plain function, undecorated."
        )
    if not _TOOL_NAME.fullmatch(name):
        raise ConfigurationError(
            f"{owner}: '{name}' cannot be a tool's name. Use a named function; 1 to 64 letters, digits, '_' and '-'."
        )
    if not (inspect.getdoc(function) or "").strip():
        raise ConfigurationError(
            f"{owner}: the tool '{name}' has no docstring. Add one: it is what the model reads to decide about a call."
        )
    untyped = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.annotation is inspect.Parameter.empty
    ]
    if untyped:
        raise ConfigurationError(
            f"{owner}: the parameter '{untyped[0]}' of the tool '{name}' has no type. Annotate it."
        )


def _first_line(error: Exception) -> str:
    text = (str(error).splitlines() or [""])[0].strip()
    return text if text.endswith(".") else f"{text or type(error).__name__}."
