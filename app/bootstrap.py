"""Builds every object from the settings; the only place that knows all of them. Read it from top to bottom."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.completions import Completions, completion_options, open_completions
from app.domain.errors import AppError, ConfigurationError
from app.domain.metrics_ports import Monitoring
from app.domain.run_ports import RunJournal, Wakeups
from app.infrastructure.clock import SystemClock
from app.infrastructure.dispatch.in_process import InProcessDispatcher
from app.infrastructure.gateway.upstream import build_upstream
from app.infrastructure.gateway.wire import JsonWire
from app.infrastructure.persistence import schema
from app.infrastructure.persistence.access import SqlAccessStore
from app.infrastructure.persistence.activity import SqlAgentActivity
from app.infrastructure.persistence.client_sessions import SqlClientSessionStore
from app.infrastructure.persistence.conversations import SqlConversationStore
from app.infrastructure.persistence.engine import EngineLimits, build_engine
from app.infrastructure.persistence.gateway_calls import SqlGatewayCallStore
from app.infrastructure.persistence.journal import SqlRunJournal
from app.infrastructure.persistence.retention import SqlRunRetention
from app.infrastructure.persistence.runtime_memory import SqlRuntimeMemoryStore
from app.infrastructure.persistence.threads import SqlThreadStore
from app.infrastructure.persistence.usage import SqlUsageStore
from app.infrastructure.persistence.wakeups import build_wakeups
from app.infrastructure.prices import GenaiPriceList
from app.infrastructure.providers.openai.context import ContextFactory
from app.infrastructure.providers.openai.endpoint import build_models
from app.infrastructure.providers.openai.endpoint_state import EndpointState, endpoint_state
from app.infrastructure.providers.openai.provider import (
    AgentSource,
    OpenAIAgentProvider,
    build_openai_provider,
)
from app.infrastructure.providers.openai.registry.discovery import (
    discover_entry_points,
    discover_folder,
    discover_tools,
    load_objects,
)
from app.infrastructure.providers.openai.usage import count_tokens
from app.infrastructure.telemetry.assembly import open_monitoring
from app.infrastructure.telemetry.counted_calls import CountedCalls
from app.infrastructure.telemetry.listeners import Ports
from app.infrastructure.telemetry.logs import adopt_host_logs, configure_logs
from app.infrastructure.telemetry.metrics import PrometheusMetrics
from app.infrastructure.telemetry.monitoring import Watched
from app.service_options import execution_limits, identity_tokens, provider_options, retention_ages, run_limits
from app.services.access import AccessService
from app.services.catalog import CatalogService
from app.services.client_sessions import ClientSessionService
from app.services.conversations import ConversationService
from app.services.event_intake import EventIntake
from app.services.executions import Executions
from app.services.gateway import GatewayLimits, GatewayService
from app.services.gateway_models import AllowedModels
from app.services.gateway_records import CallRecorder, RecordLimits
from app.services.keys import KeyService
from app.services.memory import OpenAIRuntime
from app.services.retention import RetentionService, pruning
from app.services.runs import RunService
from app.services.shares import ShareService
from app.services.threads import ThreadService
from app.services.usage import UsageService
from app.settings import Settings, load_settings


@dataclass(frozen=True, slots=True)
class Container:
    """The running system: what the surfaces (HTTP, command line, the caller's own code) work with."""

    settings: Settings
    provider: OpenAIAgentProvider
    runs: RunService
    conversations: ConversationService
    shares: ShareService
    client_sessions: ClientSessionService
    catalog: CatalogService
    usage: UsageService
    threads: ThreadService
    memory: OpenAIRuntime
    gateway: GatewayService
    access: AccessService
    keys: KeyService
    completions: Completions
    monitoring: Monitoring
    journal: RunJournal
    """For look-ups of single runs on behalf of a caller."""
    ready: Callable[[], Any]
    """Awaitable check of the database and its schema; returns a `Readiness`."""

    @property
    def intake(self) -> EventIntake:
        """What records completion events from outside."""
        return self.completions.intake


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether this process can take work, and what stands in the way."""

    ready: bool
    database: str
    """`ok`, `unavailable`, or `schema <current> is not <head>`."""


@asynccontextmanager
async def open_container(
    settings: Settings | None = None,
    *,
    agents: Sequence[AgentSource] = (),
    tools: Mapping[str, Callable[..., Any]] | None = None,
    take_over: bool = False,
    context_factory: ContextFactory | None = None,
    client: Any = None,
    model_provider: Any = None,
    engine: AsyncEngine | None = None,
) -> AsyncGenerator[Container]:
    """Start the system and stop it in order at the end of the block.

    Args:
        settings: None reads the environment.
        agents: served beside those that the settings name; with neither, the demo agents.
        tools: functions that declared agents may name, beside those of the tools folder.
        take_over: also finish runs whose process was lost; servers do, one-shot commands do not.
        context_factory: makes the context type that the agents were written for.
        client: an `openai.AsyncOpenAI` of the caller's own.
        model_provider: an SDK `ModelProvider` of the caller's own, for every agent; its models are recorded too.
        engine: an async engine of the caller's own, which stays open.

    Raises:
        ConfigurationError: a setting or an agent is wrong; the message says what to change.
        StorageUnavailable: the database cannot be reached.
    """
    settings = settings or load_settings()
    options = completion_options(settings)
    adopt_host_logs()
    async with AsyncExitStack() as stack:
        if engine is None:
            engine = engine_of(settings)
            stack.push_async_callback(engine.dispose)
        await schema.ensure(engine)

        conversations = SqlConversationStore(engine)
        provider = build_openai_provider(
            engine,
            [*agents, *_named_agents(settings)] or _demo_agents(),
            conversation_search=conversations.search,
            tools={**_named_tools(settings), **(tools or {})},
            options=replace(provider_options(settings), model_provider=model_provider),
            client=client,
            context_factory=context_factory,
        )
        stack.push_async_callback(provider.aclose)
        await provider.start()

        clock, metrics = SystemClock(), PrometheusMetrics()
        journal = SqlRunJournal(engine, lease_s=settings.runs.lease_s)
        wakeups = build_wakeups(engine)
        await wakeups.start()
        stack.push_async_callback(wakeups.aclose)
        executions = _executions(settings, provider, journal, wakeups, metrics)
        dispatcher = _dispatcher(settings, journal, wakeups, take_over=take_over)
        executions.on_cancel(dispatcher.cancel)
        runs = RunService(
            provider=provider,
            journal=journal,
            dispatcher=dispatcher,
            executions=executions,
            wakeups=wakeups,
            retention=RetentionService(SqlRunRetention(engine), clock, retention_ages(settings)),
            limits=run_limits(settings),
        )
        await dispatcher.start(executions.execute, executions.stop)
        stack.push_async_callback(dispatcher.stop, settings.runs.shutdown_grace_s)
        if take_over:
            await stack.enter_async_context(pruning(runs.prune, settings.journal.prune_every_s))

        completions = await stack.enter_async_context(
            open_completions(engine, clock, wakeups, options, deliver=take_over, metrics=metrics)
        )
        gateway = await _open_gateway(settings, engine, stack, metrics)
        monitoring = _monitoring(settings, engine, metrics, completions, gateway, listen=take_over)
        access, keys = await _open_access(settings, engine, provider, stack)
        yield Container(
            settings=settings,
            provider=provider,
            runs=runs,
            conversations=ConversationService(conversations),
            shares=ShareService(conversations, clock),
            client_sessions=ClientSessionService(SqlClientSessionStore(engine), conversations, provider, clock),
            catalog=CatalogService(provider, SqlAgentActivity(engine)),
            usage=UsageService(SqlUsageStore(engine)),
            threads=ThreadService(SqlThreadStore(engine), provider),
            memory=OpenAIRuntime(SqlRuntimeMemoryStore(engine)),
            gateway=gateway,
            access=access,
            keys=keys,
            completions=completions,
            monitoring=await stack.enter_async_context(monitoring),
            journal=journal,
            ready=partial(readiness, engine),
        )


async def readiness(engine: AsyncEngine) -> Readiness:
    """Look at the database; never raises."""
    try:
        state = await schema.check(engine)
    except (AppError, SQLAlchemyError):  # the second: a file that is no database, a table of another shape
        return Readiness(ready=False, database="unavailable")
    if not state.up_to_date:
        return Readiness(ready=False, database=f"schema {state.current or 'empty'} is not {state.head}")
    return Readiness(ready=True, database="ok")


def engine_of(settings: Settings) -> AsyncEngine:
    """Return an engine for the settings; it connects on first use.

    Raises:
        ConfigurationError: DATABASE_URL is wrong.
    """
    database = settings.database
    engine = build_engine(
        database.url.get_secret_value(),
        EngineLimits(
            pool_size=database.pool_size,
            pool_timeout_s=database.pool_timeout_s,
            connect_timeout_s=database.connect_timeout_s,
            statement_timeout_s=database.statement_timeout_s,
            sqlite_busy_timeout_s=database.sqlite_busy_timeout_s,
            sqlite_synchronous=database.sqlite_synchronous,
        ),
    )
    path = engine.url.database if engine.dialect.name == "sqlite" else None
    # SQLite makes the file, never its folder, and the driver's thread outlives the loop when it cannot.
    if path and not path.startswith((":", "file:")) and not Path(path).parent.is_dir():
        raise ConfigurationError(f"DATABASE_URL: there is no folder '{Path(path).parent}'. Create it first.")
    return engine


async def upgrade_database(settings: Settings) -> Sequence[str]:
    """Bring the database to this release's schema; returns the revisions that were applied."""
    engine = engine_of(settings)
    try:
        return await schema.upgrade(engine)
    finally:
        await engine.dispose()


async def check_database(settings: Settings) -> Readiness:
    """Look at the database and its schema; never raises for a database that is away."""
    engine = engine_of(settings)
    try:
        return await readiness(engine)
    finally:
        await engine.dispose()


async def check_endpoint(settings: Settings, *, timeout_s: float | None) -> EndpointState:
    """Look at the model's endpoint, asking it for its models within `timeout_s` seconds; None: do not ask.

    An endpoint that knows no such list counts as reachable. Never raises for one that is away.

    Raises:
        ConfigurationError: OPENAI_API_KEY is empty.
    """
    return await endpoint_state(build_models(provider_options(settings).endpoint).client, timeout_s=timeout_s)


def set_up_logs(settings: Settings) -> None:
    """Set up logging for a process that we own (server, command line); a host program keeps its own."""
    configure_logs(settings.server.log_level, settings.server.log_format)


def _named_agents(settings: Settings) -> list[AgentSource]:
    named = settings.agents
    references = [reference.strip() for reference in named.agents.split(",") if reference.strip()]
    found: list[AgentSource] = [*load_objects(references), *discover_entry_points()]
    if named.agents_folder is not None:
        found.extend(discover_folder(named.agents_folder))
    return found


def _demo_agents() -> list[AgentSource]:
    return [*discover_folder("app.agents")]


def _named_tools(settings: Settings) -> dict[str, Callable[..., Any]]:
    tools = discover_tools("app.tools")
    if settings.agents.tools_folder is not None:
        tools.update(discover_tools(settings.agents.tools_folder))
    return tools


def _monitoring(
    settings: Settings,
    engine: AsyncEngine,
    metrics: PrometheusMetrics,
    completions: Completions,
    gateway: GatewayService,
    *,
    listen: bool,
) -> AbstractAsyncContextManager[Monitoring]:
    own = completions.configuration.monitoring
    ports = Ports(settings.server.host, own.metrics_port, own.health_check_port) if listen else None
    watched = Watched(
        names=completions.destination_names,
        spool=completions.spool_place,
        relay_failing=completions.relay_failing,
        dropped_calls=lambda: gateway.dropped_records,
        open_calls=lambda: gateway.open_calls,
    )
    return open_monitoring(engine, metrics, watched, partial(readiness, engine), ports)


async def _open_gateway(
    settings: Settings, engine: AsyncEngine, stack: AsyncExitStack, metrics: PrometheusMetrics
) -> GatewayService:
    """Return the gateway to upstream models; at the end it records what it has passed, then closes its connections."""
    limits = settings.gateway
    upstream = build_upstream(provider_options(settings).endpoint, limits.max_calls) if limits.models else None
    if upstream is not None:
        stack.push_async_callback(upstream.aclose)
    record = RecordLimits(when=limits.record, flush_s=limits.flush_ms / 1000, max_waiting=limits.max_waiting)
    recorder = CallRecorder(CountedCalls(SqlGatewayCallStore(engine), metrics), GenaiPriceList(), record)
    return GatewayService(
        upstream=upstream,
        models=AllowedModels(limits.models.split(","), upstream, cache_s=limits.models_cache_s),
        wire=JsonWire(count_tokens, stream_usage=limits.stream_usage),
        recorder=await stack.enter_async_context(recorder),
        clock=SystemClock(),
        limits=GatewayLimits(limits.max_calls, limits.timeout_s, limits.chunk_timeout_s),
    )


async def _open_access(
    settings: Settings, engine: AsyncEngine, provider: OpenAIAgentProvider, stack: AsyncExitStack
) -> tuple[AccessService, KeyService]:
    store, clock = SqlAccessStore(engine), SystemClock()
    access = AccessService(store, clock, host=settings.server.host, tokens=identity_tokens(settings))
    await access.start()
    stack.push_async_callback(access.aclose)
    return access, KeyService(store, provider, clock, on_change=access.forget)


def _executions(
    settings: Settings, provider: OpenAIAgentProvider, journal: RunJournal, wakeups: Wakeups, metrics: PrometheusMetrics
) -> Executions:
    return Executions(
        provider=provider,
        journal=journal,
        prices=GenaiPriceList(),
        clock=SystemClock(),
        wakeups=wakeups,
        limits=execution_limits(settings),
        metrics=metrics,
    )


def _dispatcher(settings: Settings, journal: RunJournal, wakeups: Wakeups, *, take_over: bool) -> InProcessDispatcher:
    runs = settings.runs
    return InProcessDispatcher(
        journal, wakeups, lease_s=runs.lease_s, poll_s=runs.poll_s, max_running=runs.max_running, take_over=take_over
    )
