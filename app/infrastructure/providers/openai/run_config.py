"""What the Runner is told for one run: the SDK's RunConfig from our options."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from agents import ModelProvider, ModelSettings, RunConfig, gen_trace_id

from app.domain.errors import InvalidInput
from app.domain.models.runs import Run, RunOptions
from app.infrastructure.providers.openai.client_tools import client_tools
from app.infrastructure.providers.openai.output_types import is_schema, schema_of_type
from app.infrastructure.providers.openai.registry.handoffs import handoff_filter

_MODEL_SETTING_NAMES = frozenset(field.name for field in fields(ModelSettings))
DEFAULT_MAX_TURNS = 10


@dataclass(frozen=True, slots=True)
class RunDefaults:
    """What a run uses that sets nothing itself."""

    max_turns: int = DEFAULT_MAX_TURNS
    trace_content: bool = False
    """Whether spans hold inputs and outputs; the steps hold them anyway."""
    on_replay_mismatch: Literal["continue", "fail"] = "continue"
    """When a recorded model call does not fit what the agent asks now: the record wins and it is logged, or the run
    fails."""


def run_config(run: Run, provider: ModelProvider, defaults: RunDefaults) -> RunConfig:
    """Return the RunConfig of a run.

    Raises:
        InvalidInput: a model setting or handoff filter does not exist or has a wrong value.
    """
    history = run.options.handoff_history
    return RunConfig(
        model=run.options.model,
        model_provider=provider,
        model_settings=model_settings(run.options.model_settings),
        # The SDK refuses history filters where the provider keeps the history.
        handoff_input_filter=None if history is None or run.session_mode == "server" else handoff_filter(history),
        workflow_name=run.agent,
        trace_id=gen_trace_id(),
        group_id=run.conversation_id,
        trace_include_sensitive_data=defaults.trace_content,
        # Reading more of the history than was loaded is never wanted: the window was chosen before.
        session_settings=None,
    )


def checked_options(options: RunOptions) -> RunOptions:
    """Check the options that only the SDK and the schema's validator can judge; put a type's schema beside the type.

    Raises:
        InvalidInput: `param` names what is wrong.
    """
    model_settings(options.model_settings)
    if options.handoff_history is not None:
        handoff_filter(options.handoff_history)
    if options.output_schema is not None and not is_schema(options.output_schema):
        raise InvalidInput("The output schema is no JSON schema.", param="output_schema")
    client_tools(options.client_tools)
    if options.output_type is None:
        return options
    return replace(options, output_schema=schema_of_type(options.output_type))


def model_settings(values: Mapping[str, Any]) -> ModelSettings | None:
    """Return the SDK's settings; None when nothing is set.

    Raises:
        InvalidInput: a field does not exist or has a wrong value; `param` names it.
    """
    if not values:
        return None
    unknown = sorted(set(values) - _MODEL_SETTING_NAMES)
    if unknown:
        raise InvalidInput(f"There is no model setting '{unknown[0][:80]}'.", param=f"model_settings.{unknown[0][:80]}")
    try:
        return ModelSettings(**values)
    except (TypeError, ValueError) as error:
        raise InvalidInput("A model setting has a wrong value.", param="model_settings") from error
