"""OpenAIAgentProvider: joins registry, runtime, session store and conversation factory. No logic of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents import Agent, ModelProvider
from openai import AsyncOpenAI
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.models.agents import AgentDescriptor, AgentSpec, ToolDescriptor
from app.domain.models.conversations import SessionMode
from app.domain.models.runs import RunOptions
from app.domain.ports import ConversationSearch
from app.infrastructure.providers.openai import nested_runs, spans
from app.infrastructure.providers.openai.context import ContextFactory
from app.infrastructure.providers.openai.conversation_client import ConversationClient
from app.infrastructure.providers.openai.endpoint import EndpointOptions, Models, build_models
from app.infrastructure.providers.openai.registry.agents import AgentRegistry, build_registry
from app.infrastructure.providers.openai.run_config import RunDefaults, checked_options
from app.infrastructure.providers.openai.runtime import OpenAIAgentRuntime
from app.infrastructure.providers.openai.search_tool import search_tool
from app.infrastructure.providers.openai.session_store import OpenAISQLAlchemySessionStore

AgentSource = AgentSpec | Agent[Any]


@dataclass(frozen=True, slots=True)
class ProviderOptions:
    """How the provider is set up: as the settings say, and with what a host program brings along."""

    endpoint: EndpointOptions = field(default_factory=EndpointOptions)
    session_mode: SessionMode = "local"
    models: Mapping[str, str] = field(default_factory=dict[str, str])
    """Models by settings key, for agents that name a key."""
    default_agent: str | None = None
    defaults: RunDefaults = field(default_factory=RunDefaults)
    trace_export: bool = False
    model_provider: ModelProvider | None = None
    """The caller's own: makes every model that an agent or a run names, and the default one. It stays open."""


class OpenAIAgentProvider:
    """AgentProvider on the OpenAI Agents SDK."""

    def __init__(
        self,
        *,
        models: Models,
        registry: AgentRegistry,
        runtime: OpenAIAgentRuntime,
        sessions: OpenAISQLAlchemySessionStore,
        conversations: ConversationClient,
    ) -> None:
        """Use `build_openai_provider`."""
        self._models = models
        self._registry = registry
        self._conversations = conversations
        self.name: str = models.name
        self.runtime = runtime
        self.sessions = sessions

    def agents(self) -> Sequence[AgentDescriptor]:
        """Return all agents; see the port."""
        return self._registry.descriptors()

    def agent(self, key: str | None) -> AgentDescriptor:
        """Return one agent; see the port."""
        return self._registry.get(key).descriptor

    def tool_overview(self) -> Sequence[ToolDescriptor]:
        """Return all tools; see the port."""
        return self._registry.tool_overview()

    def checked_options(self, options: RunOptions) -> RunOptions:
        """Check a run's options; see the port."""
        return checked_options(options)

    async def create_conversation(self) -> str | None:
        """Create a conversation at the provider; see the port."""
        return await self._conversations.create()

    async def start(self) -> None:
        """Connect the agents' MCP servers.

        Raises:
            ConfigurationError: one cannot be reached; the message names it.
        """
        await self._registry.connect()

    async def aclose(self) -> None:
        """Disconnect; see the port."""
        await self._registry.aclose()
        await self._models.provider.aclose()


def build_openai_provider(
    engine: AsyncEngine,
    agents: Sequence[AgentSource],
    *,
    conversation_search: ConversationSearch | None = None,
    tools: Mapping[str, Callable[..., Any]] | None = None,
    options: ProviderOptions | None = None,
    client: AsyncOpenAI | None = None,
    context_factory: ContextFactory | None = None,
) -> OpenAIAgentProvider:
    """Build the provider: the agents once, over the shared engine.

    Args:
        engine: the process's async engine; the session store uses it.
        agents: SDK agents, unchanged, and declared ones.
        conversation_search: what the `search_conversations` tool asks; without it the tool does not exist.
        tools: functions that declared agents may name.
        options: endpoint, session mode, models, defaults, a model provider of the caller's own.
        client: a client of the caller's own; any OpenAI-compatible endpoint. It wins over the endpoint's options.
        context_factory: makes the context type that the agents were written for.

    Raises:
        ConfigurationError: an agent cannot be built; the message names it and what to change.
    """
    options = options or ProviderOptions()
    models = build_models(options.endpoint, client, options.model_provider)
    known_tools = dict(tools or {})
    if conversation_search is not None:
        known_tools.setdefault("search_conversations", search_tool(conversation_search))
    registry = build_registry(
        agents,
        tools=known_tools,
        default_model=models.default_model,
        models=options.models,
        default_agent=options.default_agent,
    )
    nested_runs.install()
    spans.install(export_to_openai=options.trace_export)
    return OpenAIAgentProvider(
        models=models,
        registry=registry,
        runtime=OpenAIAgentRuntime(registry, models.provider, options.defaults, context_factory),
        sessions=OpenAISQLAlchemySessionStore(engine),
        conversations=ConversationClient(models.client, options.session_mode),
    )
