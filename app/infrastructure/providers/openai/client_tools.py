"""Function tools that the caller of a run executes: a call of one ends the run, and the next input holds its output."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from agents import FunctionTool, RunContextWrapper, UserError
from agents.items import ToolApprovalItem
from agents.tool_context import ToolContext

from app.domain.errors import InvalidInput
from app.domain.models.conversations import Item

MAX_CLIENT_TOOLS: Final = 128
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_FIELDS: Final = frozenset({"type", "name", "description", "parameters", "strict"})
_NO_PARAMETERS: Final = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}


class ClientCall:
    """The `needs_approval` of a client's tool: the Runner stops at it, as it does for a person."""

    async def __call__(self, _context: RunContextWrapper[Any], _parameters: dict[str, Any], _call_id: str) -> bool:
        """Stop, always."""
        return True


def client_tools(given: Sequence[Mapping[str, Any]]) -> list[FunctionTool]:
    """Return the SDK's tools for what a caller gives.

    Raises:
        InvalidInput: one is no function tool; `param` names it.
    """
    if len(given) > MAX_CLIENT_TOOLS:
        raise InvalidInput(f"A run takes at most {MAX_CLIENT_TOOLS} tools.", param="client_tools")
    tools = [_client_tool(tool, f"client_tools[{index}]") for index, tool in enumerate(given)]
    names = [tool.name for tool in tools]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InvalidInput(f"There are two tools named '{name}'.", param=f"client_tools[{index}].name")
    return tools


def client_calls(
    interruptions: Sequence[ToolApprovalItem], tools: Sequence[Mapping[str, Any]], made: Sequence[Item]
) -> tuple[str, ...]:
    """Return the ids of the calls among interruptions that the caller is to execute.

    `made`: what the run's own agents have said. Agents inside of tools do not have the caller's tools, but may have
    one of the same name.
    """
    names = {tool["name"] for tool in tools}
    own = {item.get("call_id") for item in made}
    found = (_raw(item) for item in interruptions)
    return tuple(
        str(call["call_id"])
        for call in found
        if call.get("type") == "function_call" and call.get("name") in names and call["call_id"] in own
    )


def _client_tool(tool: Mapping[str, Any], param: str) -> FunctionTool:
    if tool.get("type") != "function":
        raise InvalidInput("A tool of the caller's own is of type function.", param=f"{param}.type")
    unknown = sorted(set(tool) - _FIELDS)
    if unknown:
        raise InvalidInput(f"A function tool has no field '{unknown[0][:80]}'.", param=f"{param}.{unknown[0][:80]}")
    name, description = tool.get("name"), tool.get("description")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        message = "A tool's name is 1 to 128 letters, digits, underscores and dashes."
        raise InvalidInput(message, param=f"{param}.name")
    if description is not None and not isinstance(description, str):
        raise InvalidInput("A tool's description is a text.", param=f"{param}.description")
    parameters, strict = tool.get("parameters"), tool.get("strict")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise InvalidInput("A tool's parameters are a JSON schema.", param=f"{param}.parameters")
    if parameters and parameters.get("type") != "object":
        message = 'The schema of a tool\'s parameters is of type "object".'
        raise InvalidInput(message, param=f"{param}.parameters")
    if strict is not None and not isinstance(strict, bool):
        raise InvalidInput("`strict` is true or false.", param=f"{param}.strict")
    try:
        return FunctionTool(
            name=name,
            description=description or "",
            params_json_schema=dict(parameters or _NO_PARAMETERS),
            on_invoke_tool=_never,
            strict_json_schema=bool(strict),
            needs_approval=ClientCall(),
        )
    except (UserError, TypeError, ValueError) as error:
        raise InvalidInput("The schema of a tool's parameters is not strict.", param=f"{param}.parameters") from error


async def _never(_context: ToolContext[Any], _arguments: str) -> str:
    raise AssertionError("a client's tool is never executed here")


def _raw(item: ToolApprovalItem) -> Mapping[str, Any]:
    raw = item.raw_item
    return raw if isinstance(raw, Mapping) else raw.model_dump()
