"""Runs inside a run: agents as tools, and tools that call the Runner, get their own scope, models and hooks.

`Agent.as_tool()` starts its agent through the SDK's default runner, so that is where nested runs are found. Outside of
one of our runs the default runner behaves as if we were not there.
"""

from dataclasses import replace
from typing import Any, cast

from agents import Agent, Model, ModelProvider, MultiProvider, RunConfig, RunHooks
from agents.run import AgentRunner, get_default_agent_runner, set_default_agent_runner
from agents.tool_context import ToolContext

from app.infrastructure.providers.openai.context import ACTIVE_RUN, ActiveRun
from app.infrastructure.providers.openai.journal_model import JournalModel, JournalModelProvider, model_name_of
from app.infrastructure.providers.openai.lifecycle import CombinedHooks, RecordingHooks
from app.infrastructure.providers.openai.preparation import prepared


class NestedRunner:
    """The SDK's default runner, seen through: a nested run is recorded under the tool call that started it."""

    def __init__(self, inner: AgentRunner) -> None:
        """`inner` is the runner that was the default before."""
        self.inner = inner

    async def run(self, starting_agent: Agent[Any], input: Any, **options: Any) -> Any:  # noqa: A002 - the SDK's name
        """Run; see `agents.Runner.run`."""
        nested = _nested(options)
        if nested is None:
            return await self.inner.run(starting_agent, input, **options)
        token = ACTIVE_RUN.set(nested)
        try:
            return await self.inner.run(_agent(starting_agent, nested), input, **_options(options, nested))
        finally:
            ACTIVE_RUN.reset(token)

    def run_streamed(self, starting_agent: Agent[Any], input: Any, **options: Any) -> Any:  # noqa: A002
        """Run streamed; see `agents.Runner.run_streamed`. The task it starts inherits the scope."""
        nested = _nested(options)
        if nested is None:
            return self.inner.run_streamed(starting_agent, input, **options)
        token = ACTIVE_RUN.set(nested)
        try:
            return self.inner.run_streamed(_agent(starting_agent, nested), input, **_options(options, nested))
        finally:
            ACTIVE_RUN.reset(token)

    def run_sync(self, starting_agent: Agent[Any], input: Any, **options: Any) -> Any:  # noqa: A002
        """Run to the end without an event loop; never inside one of our runs, which have one."""
        return self.inner.run_sync(starting_agent, input, **options)


def install() -> None:
    """Make nested runs visible, once a process."""
    current = cast("Any", get_default_agent_runner())
    if not isinstance(current, NestedRunner):
        set_default_agent_runner(cast("AgentRunner", NestedRunner(current)))


def _nested(options: dict[str, Any]) -> ActiveRun | None:
    """Return the scope for a nested run; None outside of our runs and for the outermost run itself."""
    active = ACTIVE_RUN.get()
    if active is None or isinstance(options.get("hooks"), RecordingHooks):
        return None
    if active.place is not None:
        scope = active.recording.scope_in(active.place)
    else:
        context = options.get("context")
        call_id = context.tool_call_id if isinstance(context, ToolContext) else None
        scope = active.recording.nested_scope(active.scope, call_id)
    return replace(active, scope=scope, place=None, config=_config(options.get("run_config"), active))


def _agent(agent: Agent[Any], nested: ActiveRun) -> Agent[Any]:
    provider = None if nested.config is None else nested.config.model_provider
    return prepared(agent, provider.default_model if isinstance(provider, JournalModelProvider) else None)


def _options(options: dict[str, Any], nested: ActiveRun) -> dict[str, Any]:
    theirs: RunHooks[Any] | None = options.get("hooks")
    ours = RecordingHooks()
    hooks = ours if theirs is None else CombinedHooks(theirs, ours)
    return {**options, "hooks": hooks, "run_config": nested.config}


def _config(given: RunConfig | dict[str, Any] | None, active: ActiveRun) -> RunConfig | None:
    """Return the configuration of a nested run: the one it was given with recorded models, else the outer run's."""
    if given is None or active.config is None:
        return active.config if given is None else RunConfig(**given) if isinstance(given, dict) else given
    config = RunConfig(**given) if isinstance(given, dict) else given
    model = config.model
    if isinstance(model, Model) and not isinstance(model, JournalModel):
        model = JournalModel(model, model_name_of(model))
    return replace(config, model=model, model_provider=_recorded(config.model_provider, active.config.model_provider))


def _recorded(given: ModelProvider, ours: ModelProvider) -> ModelProvider:
    """Return the provider with its models recorded; in place of the SDK's untouched default stands the run's own."""
    if isinstance(given, JournalModelProvider):
        return given
    return ours if _is_default(given) else JournalModelProvider(given, None)


def _is_default(provider: ModelProvider) -> bool:
    """Tell whether nobody chose this provider: it is what `RunConfig()` has when it is given none."""
    if type(provider) is not MultiProvider or provider.provider_map is not None:
        return False
    return vars(provider.openai_provider) == vars(MultiProvider().openai_provider)
