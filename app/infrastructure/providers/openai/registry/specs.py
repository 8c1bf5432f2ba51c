"""What a declared agent must be, before anything is built from it."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from agents import InputGuardrail, ModelSettings, OutputGuardrail
from pydantic import TypeAdapter, ValidationError

from app.domain.errors import ConfigurationError
from app.domain.models.agents import AgentSpec
from app.infrastructure.providers.openai.registry.handoffs import HISTORIES

_KEY: Final = re.compile(r"[a-z0-9_-]{1,64}")
_MODEL_SETTINGS: Final = TypeAdapter(ModelSettings)


@dataclasses.dataclass(frozen=True, slots=True)
class ModelTable:
    """The models of the settings: the default one, and others by key; keys are compared without case."""

    default: str
    by_key: Mapping[str, str]

    def model_of(self, spec: AgentSpec) -> str:
        """Return the name of an agent's model.

        Raises:
            ConfigurationError: it names a model and a setting, or a setting that does not exist.
        """
        if spec.model is not None and spec.model_setting is not None:
            raise ConfigurationError(
                f"Agent '{spec.key}' has both `model` and `model_setting`. Give one, or neither for the default."
            )
        if spec.model_setting is None:
            return spec.model or self.default
        wanted = spec.model_setting.casefold()
        for key, model in self.by_key.items():
            if key.casefold() == wanted:
                return model
        raise ConfigurationError(
            f"Agent '{spec.key}' takes its model from the setting '{spec.model_setting}', which does not exist. "
            f"Set APP_MODELS__{spec.model_setting.upper()}, or use one of: {', '.join(sorted(self.by_key)) or 'none'}."
        )


def check_spec(spec: AgentSpec) -> None:
    """Check what can be told from one declaration alone.

    Raises:
        ConfigurationError: the key's characters, a model setting, a guardrail, or a handoff history is wrong.
    """
    if not _KEY.fullmatch(spec.key):
        raise ConfigurationError(
            f"Agent '{spec.key[:80]}': its key is wrong. Use 1 to 64 lower-case letters, digits, '-' and '_'."
        )
    _check_model_settings(spec)
    _check_guardrails(spec, spec.input_guardrails, InputGuardrail, "input_guardrails")
    _check_guardrails(spec, spec.output_guardrails, OutputGuardrail, "output_guardrails")
    for handoff in spec.handoffs:
        if handoff.history not in HISTORIES:
            raise ConfigurationError(
                f"Agent '{spec.key}': its handoff to '{handoff.agent}' has the history '{handoff.history}'. "
                f"Use one of: {', '.join(HISTORIES)}."
            )


def check_targets(specs: Sequence[AgentSpec], known: Sequence[str]) -> None:
    """Check that every agent which another one names exists.

    Raises:
        ConfigurationError: naming the agent, the missing one, and those that exist.
    """
    for spec in specs:
        for use, target in (
            *(("hands off to", handoff.agent) for handoff in spec.handoffs),
            *(("uses as a tool", tool.agent) for tool in spec.agent_tools),
        ):
            if target not in known:
                raise ConfigurationError(
                    f"Agent '{spec.key}' {use} '{target}', which does not exist. "
                    f"Known agents: {', '.join(sorted(known))}. Correct the key, or register that agent."
                )


def build_order(specs: Mapping[str, AgentSpec]) -> list[AgentSpec]:
    """Return the declared agents so that one used as a tool comes before those that use it.

    Handoffs put no order on agents: they are filled in when all agents exist, so they may go in circles.

    Raises:
        ConfigurationError: agents use each other as tools in a circle; the message holds it, as `a -> b -> a`.
    """
    ordered: dict[str, AgentSpec] = {}

    def visit(key: str, path: tuple[str, ...]) -> None:
        if key in path:
            circle = " -> ".join((*path[path.index(key) :], key))
            raise ConfigurationError(
                f"Agent '{key}' uses itself as a tool in a circle: {circle}. "
                "Take one of these `agent_tools` out, or make it a handoff, which may go in circles."
            )
        if key in ordered or key not in specs:  # a native agent is there already
            return
        for tool in specs[key].agent_tools:
            visit(tool.agent, (*path, key))
        ordered[key] = specs[key]

    for key in specs:
        visit(key, ())
    return list(ordered.values())


def _check_model_settings(spec: AgentSpec) -> None:
    known = {field.name for field in dataclasses.fields(ModelSettings)}
    if unknown := sorted(set(spec.model_settings) - known):
        raise ConfigurationError(
            f"Agent '{spec.key}': there is no model setting '{unknown[0]}'. Use one of: {', '.join(sorted(known))}."
        )
    try:
        _MODEL_SETTINGS.validate_python(dict(spec.model_settings))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigurationError(
            f"Agent '{spec.key}': its model setting '{first['loc'][0]}' is wrong: {first['msg']}. "
            "Correct it in `model_settings`."
        ) from error


def _check_guardrails(spec: AgentSpec, guardrails: Sequence[Any], kind: type[Any], field: str) -> None:
    for guardrail in guardrails:
        if not isinstance(guardrail, kind):
            raise ConfigurationError(
                f"Agent '{spec.key}': `{field}` holds a {type(guardrail).__name__}. Give {kind.__name__} objects."
            )
