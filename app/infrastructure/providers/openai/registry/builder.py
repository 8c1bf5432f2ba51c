"""SDK agents from declared ones."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from agents import Agent, FunctionTool, Handoff, RunContextWrapper, UserError, default_tool_error_function, handoff

from app.domain.errors import ConfigurationError, LeaseLost, RequestError, RunCancelled, StorageUnavailable
from app.domain.models.agents import AgentSpec, AgentToolSpec, HandoffSpec
from app.infrastructure.providers.openai.registry.handoffs import handoff_filter
from app.infrastructure.providers.openai.registry.mcp import McpServers
from app.infrastructure.providers.openai.registry.prompts import build_instructions
from app.infrastructure.providers.openai.registry.specs import ModelTable, build_order, check_spec, check_targets
from app.infrastructure.providers.openai.registry.tools import ToolCatalog


def build_agents(
    specs: Sequence[AgentSpec],
    natives: Mapping[str, Agent[Any]],
    *,
    tools: ToolCatalog,
    models: ModelTable,
    mcp_servers: McpServers,
) -> dict[str, Agent[Any]]:
    """Build an SDK agent for each spec and return them by key, in the order of `specs`; its name is its key.

    Handoffs and agent tools may point to native agents, which stay as they are.

    Raises:
        ConfigurationError: anything wrong with a declaration; the message names the agent and what to change.
    """
    for spec in specs:
        check_spec(spec)
    by_key = {spec.key: spec for spec in specs}
    check_targets(specs, [*by_key, *natives])
    agents: dict[str, Agent[Any]] = dict(natives)
    for spec in build_order(by_key):
        agents[spec.key] = _build_agent(spec, agents, tools=tools, models=models, mcp_servers=mcp_servers)
    for spec in specs:  # only now: agents may hand off to each other in a circle
        agents[spec.key].handoffs.extend(_handoff(target, agents[target.agent]) for target in spec.handoffs)
        _check_names(spec, agents[spec.key])
    return {spec.key: agents[spec.key] for spec in specs}


def _build_agent(
    spec: AgentSpec,
    agents: Mapping[str, Agent[Any]],
    *,
    tools: ToolCatalog,
    models: ModelTable,
    mcp_servers: McpServers,
) -> Agent[Any]:
    # Empty settings are left out, so that the SDK puts in its defaults for the model.
    settings: dict[str, Any] = {"model_settings": dict(spec.model_settings)} if spec.model_settings else {}
    try:
        return Agent(
            name=spec.key,
            handoff_description=spec.description,
            instructions=build_instructions(spec),
            model=models.model_of(spec),
            tools=[
                *tools.tools_of(spec),
                *(_agent_tool(tool, agents[tool.agent]) for tool in spec.agent_tools),
            ],
            mcp_servers=mcp_servers.declared(spec.mcp_servers, agent=spec.key),
            output_type=spec.output_type,
            input_guardrails=list(spec.input_guardrails),
            output_guardrails=list(spec.output_guardrails),
            **settings,
        )
    except (TypeError, ValueError, UserError) as error:
        raise ConfigurationError(f"Agent '{spec.key}' cannot be built: {error}. Correct its declaration.") from error


def _agent_tool(spec: AgentToolSpec, agent: Agent[Any]) -> FunctionTool:
    return agent.as_tool(
        tool_name=spec.tool_name or re.sub(r"[^A-Za-z0-9_]", "_", agent.name),
        tool_description=spec.description or agent.handoff_description,
        max_turns=spec.max_turns,
        failure_error_function=_agent_tool_failure,
    )


def _agent_tool_failure(context: RunContextWrapper[Any], error: Exception) -> str:
    """Tell the calling model what broke the nested run, unless the whole run must end for it."""
    if isinstance(error, LeaseLost | RunCancelled | StorageUnavailable | RequestError):
        raise error
    return default_tool_error_function(context, error)


def _handoff(spec: HandoffSpec, agent: Agent[Any]) -> Handoff[Any, Any]:
    target = handoff(agent, tool_description_override=spec.description)
    target.input_filter = handoff_filter(spec.history)
    return target


def _check_names(spec: AgentSpec, agent: Agent[Any]) -> None:
    """The model calls tools and handoffs by name, so an agent's names must differ."""
    names = Counter(
        [
            *(tool.name for tool in agent.tools),
            *(target.tool_name for target in agent.handoffs if isinstance(target, Handoff)),
        ]
    )
    if repeated := sorted(name for name, count in names.items() if count > 1 and name != "hosted_mcp"):
        raise ConfigurationError(
            f"Agent '{spec.key}' has two tools or handoffs named '{repeated[0]}'. Take one out, or rename it."
        )
    servers = Counter(server.name for server in spec.mcp_servers)
    if twice := sorted(name for name, count in servers.items() if count > 1):
        raise ConfigurationError(f"Agent '{spec.key}' lists the MCP server '{twice[0]}' twice. Take one out.")
