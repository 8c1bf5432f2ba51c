"""The copies of agents that run in their place."""

import gc
from typing import Any

from agents import Agent, ModelSettings, handoff
from agents.models import get_default_model_settings
from agents.testing import ScriptedModel

from app.infrastructure.providers.openai import preparation
from app.infrastructure.providers.openai.journal_model import JournalModel
from app.infrastructure.providers.openai.preparation import prepared


def test_an_agent_that_names_its_model_runs_itself() -> None:
    back = Agent(name="back", model="gpt-4.1")
    front = Agent(name="front", model="gpt-5", handoffs=[back])
    back.handoffs.append(front)
    assert prepared(front, "gpt-4.1") is front


def test_a_model_object_is_recorded_in_a_copy_that_is_made_once() -> None:
    model = ScriptedModel()
    agent = Agent(name="a", model=model)
    copy = prepared(agent, "gpt-4.1")
    assert copy is not agent
    assert agent.model is model
    assert isinstance(copy.model, JournalModel)
    assert copy.model.inner is model
    assert prepared(agent, "gpt-4.1") is copy
    assert prepared(copy, "gpt-4.1") is copy


def test_a_circle_of_handoffs_stays_a_circle() -> None:
    back = Agent(name="back", model=ScriptedModel())
    front = Agent(name="front", model="gpt-4.1", handoffs=[back])
    back.handoffs.append(front)
    copy = prepared(front, "gpt-4.1")
    assert copy.handoffs[0].handoffs[0] is copy
    assert front.handoffs == [back]


async def test_handoff_objects_lead_to_prepared_agents() -> None:
    back = Agent(name="back", model=ScriptedModel())
    given = handoff(back)
    front = Agent(name="front", model="gpt-4.1", handoffs=[given])
    copy = prepared(front, "gpt-4.1")
    (target,) = copy.handoffs
    assert target is not given
    assert target.tool_name == given.tool_name
    taken = await target.on_invoke_handoff(None, "")  # pyright: ignore
    assert taken is prepared(back, "gpt-4.1")
    assert taken is not back
    assert await given.on_invoke_handoff(None, "") is back  # pyright: ignore


def test_a_changed_agent_is_copied_again() -> None:
    back = Agent(name="back", model=ScriptedModel())
    front = Agent(name="front", model=ScriptedModel(), handoffs=[back])
    first = prepared(front, "m")
    front.instructions = "Be brief."
    second = prepared(front, "m")
    assert (first.instructions, second.instructions) == (None, "Be brief.")
    back.model = ScriptedModel()
    third = prepared(front, "m")
    assert third.handoffs[0].model.inner is back.model
    front.handoffs = []
    assert prepared(front, "m").handoffs == []
    front.model = "gpt-4.1"
    assert prepared(front, "m") is front


def test_copies_go_with_their_originals() -> None:
    gc.collect()
    before = set(preparation._prepared)
    agents: list[Any] = [Agent(name=f"a{number}", model=ScriptedModel()) for number in range(20)]
    for agent in agents:
        prepared(agent, "m")
        agent.instructions = "changed"
        prepared(agent, "m")
    own = set(preparation._prepared) - before
    assert len(own) == 20
    del agents, agent
    gc.collect()  # agents of earlier tests may go, too
    assert not own & set(preparation._prepared)


def test_settings_fit_the_model_that_answers() -> None:
    implicit = get_default_model_settings()
    agent = Agent(name="a")
    assert agent.model_settings == implicit
    copy = prepared(agent, "gpt-4.1")
    assert (copy.model, copy.model_settings) == ("gpt-4.1", ModelSettings())
    assert prepared(agent, "gpt-5.4-mini") is agent
    assert prepared(agent, None) is agent
    chosen = Agent(name="b", model_settings=ModelSettings(temperature=0.1))
    assert prepared(chosen, "gpt-4.1") is chosen


async def test_an_output_type_holds_for_every_agent_of_the_run() -> None:
    back = Agent(name="back", model="m")
    third = Agent(name="third", model="m")
    front = Agent(name="front", model="m", handoffs=[back, handoff(third)])
    copy = prepared(front, "m", list[int])
    assert copy.output_type == copy.handoffs[0].output_type == list[int]
    taken: Any = await copy.handoffs[1].on_invoke_handoff(None, "")  # pyright: ignore
    assert taken.output_type == list[int]
    assert front.output_type is back.output_type is third.output_type is None
    assert prepared(front, "m") is not copy
