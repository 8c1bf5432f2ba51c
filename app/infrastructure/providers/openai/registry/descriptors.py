"""What the registry tells about an agent and its tools, read from the SDK's agent, declared or native."""

from collections.abc import Callable, Iterable
from typing import Any, Final, Literal

from agents import (
    Agent,
    AgentOutputSchema,
    AgentOutputSchemaBase,
    ApplyPatchTool,
    ComputerTool,
    CustomTool,
    FunctionTool,
    Handoff,
    LocalShellTool,
    Tool,
    UserError,
)

from app.domain.errors import ConfigurationError
from app.domain.models.agents import AgentDescriptor, ToolDescriptor

_RUN_HERE: Final = (FunctionTool, CustomTool, ComputerTool, LocalShellTool, ApplyPatchTool)
_HOSTED_DESCRIPTIONS: Final = {
    "web_search": "Searches the web.",
    "file_search": "Searches the files of vector stores.",
    "code_interpreter": "Runs Python code in a container of the model's provider.",
    "image_generation": "Generates and edits images.",
    "hosted_mcp": "Tools of a remote MCP server, called by the model's provider.",
}


def describe_agent(
    key: str,
    agent: Agent[Any],
    *,
    source: Literal["native", "spec"],
    default: bool,
    default_model: str,
    key_of: Callable[[str], str],
) -> AgentDescriptor:
    """Describe one agent: tools in the agent's order, then its MCP servers by name; handoff targets as keys.

    `key_of` turns an SDK agent's name into a key. The description of a native agent is its handoff description, or its
    name where it has none: its instructions are nothing to show to clients.

    Raises:
        ConfigurationError: the SDK cannot make a schema of its output type.
    """
    return AgentDescriptor(
        key=key,
        description=agent.handoff_description or agent.name,
        model=model_name(agent, default_model),
        tools=tuple(name for name, _, _ in _tools(agent)),
        handoffs=tuple(
            key_of(target.agent_name if isinstance(target, Handoff) else target.name) for target in agent.handoffs
        ),
        default=default,
        source=source,
        output_schema=_output_schema(key, agent),
    )


def describe_tools(agents: Iterable[tuple[str, Agent[Any]]]) -> tuple[ToolDescriptor, ...]:
    """Describe every tool of the agents given by key, by name; one that several agents have appears once."""
    found: dict[tuple[str, str], tuple[str, list[str]]] = {}
    for key, agent in agents:
        for name, kind, description in _tools(agent):
            _, keys = found.setdefault((name, kind), (description, []))
            if key not in keys:
                keys.append(key)
    return tuple(
        ToolDescriptor(name=name, kind=_kind(kind), description=description, agents=tuple(sorted(keys)))
        for (name, kind), (description, keys) in sorted(found.items())
    )


def model_name(agent: Agent[Any], default_model: str) -> str:
    """Return the name of an agent's model: its own, that of its model object, or the default one."""
    if agent.model is None or isinstance(agent.model, str):
        return agent.model or default_model
    # The SDK's interface has no name; its implementations keep it in `model`.
    name = getattr(agent.model, "model", None)
    return name if isinstance(name, str) and name else type(agent.model).__name__


def _tools(agent: Agent[Any]) -> list[tuple[str, str, str]]:
    """Return name, kind and description of everything the agent can call."""
    return [
        *(_tool(tool) for tool in agent.tools),
        *((server.name, "mcp", f"Tools of the MCP server '{server.name}'.") for server in agent.mcp_servers),
    ]


def _tool(tool: Tool) -> tuple[str, str, str]:
    if isinstance(tool, FunctionTool):
        return tool.name, "agent" if agent_behind(tool) is not None else "function", tool.description
    description = tool.description if isinstance(tool, CustomTool) else _HOSTED_DESCRIPTIONS.get(tool.name, "")
    return tool.name, "function" if isinstance(tool, _RUN_HERE) else "hosted", description


def agent_behind(tool: Tool) -> Agent[Any] | None:
    """Return the agent that a tool made by `Agent.as_tool` runs; None for any other tool."""
    # The SDK marks such a tool in two private fields and has no public way to ask.
    fields = vars(tool)
    agent = fields.get("_agent_instance") if fields.get("_is_agent_tool") else None
    return agent if isinstance(agent, Agent) else None


def _kind(kind: str) -> Literal["function", "hosted", "agent", "mcp"]:
    match kind:
        case "function" | "hosted" | "agent" | "mcp":
            return kind
        case _:
            raise AssertionError(kind)


def _output_schema(key: str, agent: Agent[Any]) -> dict[str, Any] | None:
    output = agent.output_type
    if output is None:
        return None
    try:
        schema = output if isinstance(output, AgentOutputSchemaBase) else AgentOutputSchema(output)
    except (UserError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"Agent '{key}': its output type cannot be a strict JSON schema: {error} Give it concrete fields."
        ) from error
    return None if schema.is_plain_text() else schema.json_schema()
