"""Agents as data: what is declared, and what the registry tells about one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

HandoffHistory = Literal["full", "fresh", "last_turn", "remove_all_tools"]
"""What the next agent sees of the history: all of it, only the handoff itself, the last user turn, or no tool items."""


@dataclass(frozen=True, slots=True)
class HandoffSpec:
    """A handoff to another agent, by key."""

    agent: str
    history: HandoffHistory = "full"
    description: str | None = None
    """Overrides the target's own handoff description."""


@dataclass(frozen=True, slots=True)
class AgentToolSpec:
    """Another agent used as a tool, by key."""

    agent: str
    tool_name: str | None = None
    description: str | None = None
    max_turns: int | None = None


@dataclass(frozen=True, slots=True)
class HostedToolSpec:
    """One of the SDK's hosted tools, which the model's provider runs.

    `options` go to the SDK's tool class unchanged, e.g. `{"vector_store_ids": ["vs_1"]}` for `file_search`.
    """

    kind: Literal["web_search", "file_search", "code_interpreter", "image_generation", "hosted_mcp"]
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class McpServerSpec:
    """An MCP server whose tools the agent may call."""

    name: str
    transport: Literal["stdio", "streamable_http", "sse"]
    params: Mapping[str, Any]
    """The SDK's own parameters: `command`, `args`, `env` for stdio; `url`, `headers`, `timeout` for the others."""
    allowed_tools: tuple[str, ...] | None = None
    """None: all of them."""


ToolSpec = str | Callable[..., Any] | HostedToolSpec
"""A tool by name (as registered in `app/tools` or by the caller), a typed function, or a hosted tool."""


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """An agent declared as data; the registry builds the SDK's Agent from it once, at start-up."""

    key: str
    """Unique; lower-case letters, digits, `-` and `_`. It is the agent's name in routes, rows and model lists."""
    description: str
    instructions: str | None = None
    """The prompt, a Jinja template with strict variables; exactly one of `instructions` and `prompt_path`."""
    prompt_path: Path | None = None
    """A prompt file; relative paths start at the module's folder when the spec is discovered from one."""
    prompt_variables: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Values of template variables that are known at start-up."""
    run_variables: tuple[str, ...] = ()
    """Template variables that each run supplies in its context variables."""
    model: str | None = None
    """A fixed model. At most one of `model` and `model_setting`; neither: the default model of the settings."""
    model_setting: str | None = None
    """The key in the settings' model table (`APP_MODELS__<KEY>`) that names the model."""
    model_settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tools: Sequence[ToolSpec] = ()
    optional_tools: Sequence[str] = ()
    """Names of tools that are used when registered; a missing one is a warning, not an error."""
    agent_tools: Sequence[AgentToolSpec] = ()
    handoffs: Sequence[HandoffSpec] = ()
    mcp_servers: Sequence[McpServerSpec] = ()
    output_type: type[Any] | None = None
    input_guardrails: Sequence[Any] = ()
    """The SDK's `InputGuardrail` objects, attached as they are."""
    output_guardrails: Sequence[Any] = ()
    """The SDK's `OutputGuardrail` objects, attached as they are."""
    default: bool = False
    """At most one agent is the default: the one that answers when a request names none."""


@dataclass(frozen=True, slots=True)
class ToolDescriptor:
    """What the registry tells about one tool."""

    name: str
    kind: Literal["function", "hosted", "agent", "mcp"]
    description: str
    agents: tuple[str, ...]
    """Keys of the agents that may call it."""


@dataclass(frozen=True, slots=True)
class AgentDescriptor:
    """What the registry tells about one agent."""

    key: str
    description: str
    model: str
    """The model's name; `demo` while the demo model stands in."""
    tools: tuple[str, ...]
    handoffs: tuple[str, ...]
    default: bool
    source: Literal["native", "spec"]
    output_schema: Mapping[str, Any] | None = None
    """The JSON schema of its structured output; None for text."""
