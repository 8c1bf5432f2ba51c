"""Guardrails whose verdicts are recorded as steps, so that a run that goes on elsewhere does not judge anew.

A verdict is recorded with the next transaction: it is cheap to come to again, and the model calls that a guardrail
makes are steps of their own.
"""

import inspect
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from agents import (
    FunctionTool,
    GuardrailFunctionOutput,
    InputGuardrail,
    OutputGuardrail,
    ToolGuardrailFunctionOutput,
    ToolInputGuardrail,
    ToolOutputGuardrail,
)
from pydantic_core import to_jsonable_python

from app.domain.models.runs import Step
from app.infrastructure.providers.openai.context import ACTIVE_RUN, ActiveRun
from app.infrastructure.providers.openai.recording import short

_G = TypeVar("_G", InputGuardrail[Any], OutputGuardrail[Any], ToolInputGuardrail[Any], ToolOutputGuardrail[Any])
_Verdict = TypeVar("_Verdict", GuardrailFunctionOutput, ToolGuardrailFunctionOutput)


def durable_input_guardrails(guardrails: Sequence[InputGuardrail[Any]]) -> list[InputGuardrail[Any]]:
    """Return copies of an agent's input guardrails whose verdicts are recorded as `/g:<name>`."""
    return [_durable(one, name, _agent_verdict) for one, name in _named(guardrails, "")]


def durable_output_guardrails(guardrails: Sequence[OutputGuardrail[Any]]) -> list[OutputGuardrail[Any]]:
    """Return copies of an agent's output guardrails whose verdicts are recorded as `/g:<name>:output`."""
    return [_durable(one, name, _agent_verdict) for one, name in _named(guardrails, ":output")]


def durable_tool_guardrails(tool: FunctionTool) -> None:
    """Give a tool's copy guardrails whose verdicts are recorded under the path of the call."""
    if tool.tool_input_guardrails:
        tool.tool_input_guardrails = [
            _durable(one, name, _tool_verdict) for one, name in _named(tool.tool_input_guardrails, "")
        ]
    if tool.tool_output_guardrails:
        tool.tool_output_guardrails = [
            _durable(one, name, _tool_verdict) for one, name in _named(tool.tool_output_guardrails, ":output")
        ]


def _named(guardrails: Sequence[_G], suffix: str) -> list[tuple[_G, str]]:
    """Return each with a name of its own, the same in every attempt."""
    named: list[tuple[_G, str]] = []
    taken: dict[str, int] = {}
    for one in guardrails:
        name = one.get_name()
        taken[name] = taken.get(name, 0) + 1
        number = "" if taken[name] == 1 else f"#{taken[name]}"
        named.append((one, f"{name}{number}{suffix}"))
    return named


def _durable(guardrail: _G, name: str, verdict_of: Callable[[Any], Any]) -> _G:
    judge: Callable[..., Any] = guardrail.guardrail_function

    async def recorded(*given: Any) -> Any:
        active = ACTIVE_RUN.get()
        if active is None:
            return await _awaited(judge(*given))
        recording = active.recording
        key = short(f"{_place(active, given)}/g:{name}")
        known = recording.recorded.get(key)
        if known is not None:
            recording.given_back += 1
            return verdict_of(known.result)
        await recording.new_ground()
        began = datetime.now(UTC)
        token = ACTIVE_RUN.set(replace(active, place=key))
        try:
            verdict = await _awaited(judge(*given))
        finally:
            ACTIVE_RUN.reset(token)
        duration_ms = round((datetime.now(UTC) - began).total_seconds() * 1000)
        agent = recording.agents.get(active.scope, active.context.agent)
        stored = to_jsonable_python(verdict, fallback=str)
        recording.log.defer(Step(key, "guardrail", name, agent, "done", None, stored, None, began, duration_ms))
        return verdict

    durable = copy(guardrail)
    durable.name = guardrail.get_name()
    durable.guardrail_function = recorded
    return durable


def _place(active: ActiveRun, given: Sequence[Any]) -> str:
    """Return the path that a guardrail belongs to: its tool call's, or the agent loop's."""
    context = getattr(given[0], "context", None)  # of a tool guardrail's data; the others get a context first
    call_id = getattr(context, "tool_call_id", None)
    return f"{active.scope}/t:{call_id}" if isinstance(call_id, str) else active.scope


async def _awaited(verdict: Any) -> Any:
    return await verdict if inspect.isawaitable(verdict) else verdict


def _agent_verdict(stored: Any) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(
        output_info=stored["output_info"], tripwire_triggered=bool(stored["tripwire_triggered"])
    )


def _tool_verdict(stored: Any) -> ToolGuardrailFunctionOutput:
    return ToolGuardrailFunctionOutput(output_info=stored["output_info"], behavior=stored["behavior"])
