"""The poet: takes over when the user wants verse."""

from pathlib import Path

from app.domain.models.agents import AgentSpec

POET = AgentSpec(
    key="poet",
    description="Writes short poems about whatever the conversation is about.",
    prompt_path=Path("poet.prompt.md"),
)
