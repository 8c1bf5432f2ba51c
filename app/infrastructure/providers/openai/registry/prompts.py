"""Instructions from Jinja templates, strict at start-up and at run time.

A template sees `prompt_variables` (known at start-up), `run_variables` (each run supplies them) and two built-in ones:
`current_date`, the ISO date in UTC, and `agent`, the agent's key. A variable that none of these covers fails the start.
A run variable that also has a value in `prompt_variables` has that value as its default.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from agents import Agent, RunContextWrapper
from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, UndefinedError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from app.domain.errors import AgentFailed, ConfigurationError, InvalidInput
from app.domain.models.agents import AgentSpec
from app.infrastructure.providers.openai.context import current_run

BUILTIN_VARIABLES: Final = frozenset({"current_date", "agent"})
"""Template variables that need no declaration; they cannot be declared either."""

Instructions = str | Callable[[RunContextWrapper[Any], Agent[Any]], str]
"""What the SDK takes as an agent's instructions: a fixed text, or what renders one for a run."""

# Prompts are plain text for a model, not HTML: escaping would change them.
_ENVIRONMENT: Final = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)


@runtime_checkable
class HasVariables(Protocol):
    """The part of a run's context that prompts read."""

    @property
    def variables(self) -> Mapping[str, Any]:
        """The values this run supplies for run variables, by name."""
        ...


def today_utc() -> date:
    """Return today's date in UTC."""
    return datetime.now(UTC).date()


def build_instructions(spec: AgentSpec, *, today: Callable[[], date] = today_utc) -> Instructions:
    """Return the instructions of an agent.

    The text itself when everything in it is known at start-up, else a function of the run's context. That function
    raises InvalidInput, naming the variable, when a run does not supply one that the template uses, and AgentFailed
    when the template breaks on the values it was given.

    Raises:
        ConfigurationError: no prompt or two, an unreadable file, a template error, or a variable nobody supplies.
    """
    source, where = _source(spec)
    try:
        used = meta.find_undeclared_variables(tree := _ENVIRONMENT.parse(source)) - set(_ENVIRONMENT.globals)
        referenced = list(meta.find_referenced_templates(tree))
        template = _ENVIRONMENT.from_string(source)
    except TemplateSyntaxError as error:
        raise ConfigurationError(
            f"Agent '{spec.key}': {where} is no valid template, line {error.lineno}: {error.message}. Correct it there."
        ) from error
    if referenced:
        raise ConfigurationError(
            f"Agent '{spec.key}': {where} includes or extends another template. Write its text into the prompt instead."
        )
    _check_variables(spec, used, where)
    if not used & (BUILTIN_VARIABLES | set(spec.run_variables)):
        return _render_now(spec, template, where)
    return _render_later(spec, template, today)


def _source(spec: AgentSpec) -> tuple[str, str]:
    """Return the template and how to call it in a message."""
    if (spec.instructions is None) == (spec.prompt_path is None):
        given = "neither" if spec.instructions is None else "both"
        raise ConfigurationError(
            f"Agent '{spec.key}' has {given} of `instructions` and `prompt_path`. Give exactly one of them."
        )
    if spec.instructions is not None:
        return spec.instructions, "its `instructions`"
    path = Path(spec.prompt_path or "")
    try:
        return path.read_text(encoding="utf-8"), f"its prompt '{path}'"
    except OSError as error:
        raise ConfigurationError(
            f"Agent '{spec.key}': its prompt file '{path}' cannot be read ({error.strerror}). "
            "Create it, or correct `prompt_path`."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"Agent '{spec.key}': its prompt file '{path}' is not UTF-8. Save it as UTF-8."
        ) from error


def _check_variables(spec: AgentSpec, used: set[str], where: str) -> None:
    declared = {*spec.prompt_variables, *spec.run_variables}
    if reserved := sorted(BUILTIN_VARIABLES & declared):
        raise ConfigurationError(
            f"Agent '{spec.key}' declares the variable '{reserved[0]}', which is built in. Give yours another name."
        )
    if missing := sorted(used - declared - BUILTIN_VARIABLES):
        raise ConfigurationError(
            f"Agent '{spec.key}': {where} uses the variable '{missing[0]}', which nothing supplies. Add it to "
            "`prompt_variables` (with its value) or to `run_variables`, or take it out of the prompt."
        )


def _render_now(spec: AgentSpec, template: Template, where: str) -> str:
    try:
        return template.render(**spec.prompt_variables)
    except (TemplateError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"Agent '{spec.key}': {where} cannot be rendered: {error}. Correct it or its `prompt_variables`."
        ) from error


def _render_later(
    spec: AgentSpec, template: Template, today: Callable[[], date]
) -> Callable[[RunContextWrapper[Any], Agent[Any]], str]:
    names = spec.run_variables
    defaults = {**spec.prompt_variables, "agent": spec.key}

    def instructions(context: RunContextWrapper[Any], agent: Agent[Any]) -> str:
        del agent  # a clone has the same key
        # The caller's own context type may have no variables; the run they belong to is known all the same.
        run = context.context if isinstance(context.context, HasVariables) else current_run()
        supplied = {} if run is None else run.variables
        values = {name: supplied[name] for name in names if name in supplied}
        try:
            return template.render({**defaults, "current_date": today().isoformat(), **values})
        except UndefinedError as error:
            raise _missing(
                spec, error, [name for name in names if name not in values and name not in defaults]
            ) from error
        except (TemplateError, TypeError, ValueError) as error:
            raise AgentFailed(f"The prompt of agent '{spec.key}' does not fit the variables of this run.") from error

    return instructions


def _missing(spec: AgentSpec, error: UndefinedError, missing: list[str]) -> InvalidInput:
    """Name the variable that the template missed; a missing attribute of one has only Jinja's text to name it."""
    for name in missing:
        if f"'{name}'" in str(error):
            return InvalidInput(
                f"Agent '{spec.key}' needs the variable '{name}'. Send it in the run's variables.",
                param=f"variables.{name}",
            )
    return InvalidInput(f"The variables of this run do not fit agent '{spec.key}': {error}.", param="variables")
