"""The demo agent: the one that answers when a request names none."""

from pathlib import Path

from app.domain.models.agents import AgentSpec, HandoffSpec

DEMO = AgentSpec(
    key="demo",
    description="Answers questions, tells the weather and the time, sends postcards when a person allows it, and hands "
    "poems over to the poet.",
    prompt_path=Path("demo.prompt.md"),
    tools=("get_weather", "get_current_time", "send_postcard"),
    optional_tools=("search_conversations",),
    handoffs=(HandoffSpec("poet", history="full"),),
    default=True,
)
