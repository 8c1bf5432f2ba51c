"""Prompts: strict at start-up, strict at run time."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, RunContextWrapper, Runner
from agents.testing import assistant_message

from app.domain.errors import AgentFailed, ConfigurationError, InvalidInput
from app.domain.models.conversations import Caller
from app.infrastructure.providers.openai.context import ACTIVE_RUN, ActiveRun, RunContext
from app.infrastructure.providers.openai.registry.prompts import build_instructions, today_utc
from tests.recordings import MemoryLog, recording_of
from tests.unit.infrastructure.providers.openai.registry.building import Scripts, registry_of, spec


@dataclass(frozen=True, slots=True)
class Context:
    variables: dict[str, Any] = field(default_factory=dict)


def render(declared: Any, **variables: Any) -> str:
    instructions = build_instructions(declared, today=lambda: date(2026, 3, 4))
    assert not isinstance(instructions, str)
    return instructions(RunContextWrapper(Context(variables)), Agent(name="x"))


def test_what_is_known_at_start_up_is_plain_text() -> None:
    assert build_instructions(spec(instructions="You sell {{ what }}.", prompt_variables={"what": "<tea> & more"})) == (
        "You sell <tea> & more."
    )
    assert build_instructions(spec(instructions="{% for n in range(3) %}{{ n }}{% endfor %}")) == "012"
    assert build_instructions(spec(instructions="")) == ""


def test_run_and_builtin_variables() -> None:
    declared = spec(
        "shop",
        instructions="{{ agent }}, {{ current_date }}: {{ greeting }} {{ name }}, {{ tier }}",
        prompt_variables={"greeting": "Hello", "tier": "basic"},
        run_variables=("name", "tier"),
    )
    assert render(declared, name="Ann") == "shop, 2026-03-04: Hello Ann, basic"
    assert render(declared, name="Ann", tier="gold", agent="evil", other=1) == "shop, 2026-03-04: Hello Ann, gold"


def test_the_date_is_utc() -> None:
    before = datetime.now(UTC).date()
    assert before <= today_utc() <= datetime.now(UTC).date()


def test_values_are_never_templates() -> None:
    declared = spec(instructions="{{ name }}", run_variables=("name",))
    assert render(declared, name="{{ agent }}{% raw %}") == "{{ agent }}{% raw %}"


@pytest.mark.parametrize("context", [Context(), None, {"name": "not ours"}])
def test_missing_run_variable(context: Any) -> None:
    declared = spec(instructions="Hi {{ title }} {{ name }}", run_variables=("title", "name"))
    instructions = build_instructions(declared)
    assert not isinstance(instructions, str)
    with pytest.raises(InvalidInput, match="'helper' needs the variable 'title'") as caught:
        instructions(RunContextWrapper(context), Agent(name="x"))
    assert caught.value.param == "variables.title"


def test_an_author_may_make_a_variable_optional() -> None:
    declared = spec(
        instructions="{% if name is defined %}Hi {{ name }}{% else %}Hi{% endif %}", run_variables=("name",)
    )
    assert render(declared) == "Hi"
    assert render(declared, name="Ann") == "Hi Ann"


def test_values_that_do_not_fit() -> None:
    declared = spec(instructions="{{ user.name }} {{ 1 + count }}", run_variables=("user", "count"))
    assert render(declared, user={"name": "Ann"}, count=1) == "Ann 2"
    with pytest.raises(InvalidInput, match="no attribute 'name'") as caught:
        render(declared, user={}, count=1)
    assert caught.value.param == "variables"
    with pytest.raises(AgentFailed, match="'helper'"):
        render(declared, user={"name": "Ann"}, count="x")


def test_templates_are_sandboxed() -> None:
    with pytest.raises(ConfigurationError, match="cannot be rendered"):
        build_instructions(spec(instructions="{{ ''.__class__.__mro__ }}"))
    with pytest.raises(AgentFailed):
        render(spec(instructions="{{ name.__class__.__mro__ }}", run_variables=("name",)), name="x")
    with pytest.raises(ConfigurationError, match="cannot be rendered"):
        build_instructions(spec(instructions="{{ names.append(1) }}", prompt_variables={"names": []}))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"instructions": None}, "'helper' has neither of `instructions` and `prompt_path`"),
        ({"instructions": "x", "prompt_path": Path("p.md")}, "'helper' has both"),
        ({"instructions": "{{ name }}"}, "'helper': its `instructions` uses the variable 'name'"),
        ({"instructions": "{% if name is defined %}x{% endif %}"}, "the variable 'name'"),
        ({"instructions": "ok\n{% if %}"}, "'helper': its `instructions` is no valid template, line 2"),
        ({"instructions": "{% include 'other' %}"}, "'helper': its `instructions` includes"),
        ({"instructions": "x", "run_variables": ("agent",)}, "'helper' declares the variable 'agent'"),
        ({"instructions": "x", "prompt_variables": {"current_date": 1}}, "the variable 'current_date'"),
        (
            {"instructions": "{{ a.b }}", "prompt_variables": {"a": {}}},
            "'helper': its `instructions` cannot be rendered",
        ),
    ],
)
def test_failures_at_start_up(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build_instructions(spec(**fields))
    assert text in caught.value.public_message


def test_prompt_files(tmp_path: Path) -> None:
    path = tmp_path / "p.md"
    with pytest.raises(ConfigurationError, match=r"'helper'.*p\.md' cannot be read \(No such file"):
        build_instructions(spec(prompt_path=path))
    path.write_text("Grüße, {{ agent }}", encoding="utf-8")
    assert render(spec(prompt_path=path)) == "Grüße, helper"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        build_instructions(spec(prompt_path=path))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        build_instructions(spec(prompt_path=tmp_path))


def test_the_callers_own_context_type_may_have_no_variables() -> None:
    caller = Caller(organization_id="o", user_id="u")
    run = RunContext("r", "c", caller, "helper", {"name": "Ann"}, {})
    instructions = build_instructions(spec(instructions="Hi {{ name }}", run_variables=("name",)))
    assert not isinstance(instructions, str)
    token = ACTIVE_RUN.set(ActiveRun(run, recording_of(MemoryLog()), ""))
    try:
        assert instructions(RunContextWrapper("theirs"), Agent(name="x")) == "Hi Ann"
        assert instructions(RunContextWrapper(run), Agent(name="x")) == "Hi Ann"
    finally:
        ACTIVE_RUN.reset(token)


async def test_the_runner_renders_for_each_run() -> None:
    agent = registry_of(spec(instructions="Hi {{ name }}", run_variables=("name",), model="m")).get("helper").agent
    models = Scripts(m=[[assistant_message("ok")]])
    await Runner.run(agent, "x", context=Context({"name": "Ann"}), run_config=models.config())
    assert models.models["m"].calls[0].system_instructions == "Hi Ann"
    with pytest.raises(InvalidInput, match="'name'"):
        await Runner.run(agent, "x", context=Context(), run_config=models.config())
