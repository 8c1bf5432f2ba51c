"""What a database must hold of runs whose processes were killed, and what it may not hold twice."""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.models.events import TERMINAL_TYPES
from app.infrastructure.persistence.journal import SqlRunJournal
from app.infrastructure.persistence.tables import completion_events, run_steps, run_usage, runs
from app.infrastructure.providers.openai.journal_tools import UNKNOWN_OUTCOME
from tests.crash.scenario import POLICIES, CallFile
from tests.crash.worker import CALLER, items_of


@dataclass(frozen=True)
class Recorded:
    """One run as the database has it."""

    run_id: str
    conversation_id: str
    name: str
    status: str
    attempts: int
    done: frozenset[str]
    """Keys of finished steps."""

    def committed(self) -> set[str]:
        """The calls that may not happen again, as the call file names them."""
        return {_call_name(self.name, key) for key in self.done}


def _call_name(name: str, key: str) -> str:
    return f"tool {key.removeprefix('/t:')}" if key.startswith("/t:") else f"model {name}{key}"


async def recorded(engine: AsyncEngine) -> dict[str, Recorded]:
    """All runs by the text that they were started with."""
    async with engine.connect() as connection:
        rows = (await connection.execute(select(runs).order_by(runs.c.created_at))).all()
        done: dict[str, set[str]] = {row.id: set() for row in rows}
        steps = select(run_steps.c.run_id, run_steps.c.step).where(run_steps.c.state == "done")
        for run_id, key in await connection.execute(steps):
            done[run_id].add(key)
    found = [
        Recorded(
            row.id, row.conversation_id, row.input[0]["content"], row.status, row.attempts, frozenset(done[row.id])
        )
        for row in rows
    ]
    assert len({one.name for one in found}) == len(found)
    return {one.name: one for one in found}


async def check_run(engine: AsyncEngine, run: Recorded) -> None:
    """Assert that a run is whole: its usage, its completion event, and its events are there exactly once."""
    assert run.status == "completed", run
    async with engine.connect() as connection:
        used = (await connection.execute(select(run_usage.c.step).where(run_usage.c.run_id == run.run_id))).scalars()
        told = await connection.execute(
            select(func.count())
            .select_from(completion_events)
            .where(completion_events.c.run_id == run.run_id, completion_events.c.type != "approval.requested")
        )
        model_steps = {key for key in run.done if not key.startswith("/t:")}
        assert len(model_steps) == 3 + ("hand" in run.name), run
        assert sorted(used) == sorted(model_steps), run
        assert told.scalar_one() == 1, run
    events, _ = await SqlRunJournal(engine, lease_s=30).events(CALLER, run.run_id)
    assert [one.sequence for one in events] == list(range(1, len(events) + 1)), run
    terminal = [one.sequence for one in events if type(one.event) in TERMINAL_TYPES]
    assert terminal == [len(events)], run


async def check_history(engine: AsyncEngine, conversation: str, names: Collection[str]) -> None:
    """Assert that a conversation holds the runs of these names: each whole, one after another, nothing between."""
    async with engine.connect() as connection:
        statement = select(runs.c.input).where(runs.c.conversation_id == conversation).order_by(runs.c.position)
        ran = [given[0]["content"] for given in (await connection.execute(statement)).scalars()]
    assert sorted(ran) == sorted(names)
    items = await items_of(engine, conversation)
    found = [name for name, _ in groupby(items, _name_in)]
    assert found == ran
    for name in ran:
        _check_turns(name, [item for item in items if _name_in(item) == name])


def _name_in(item: dict[str, Any]) -> str:
    if item.get("role") == "user":
        return item["content"]
    if "call_id" in item:
        return item["call_id"].rsplit(".", 1)[0]
    return item["content"][0]["text"].removeprefix("re: ")


def _check_turns(name: str, items: list[dict[str, Any]]) -> None:
    kinds = [item.get("type") or item["role"] for item in items]
    pair, both = ["function_call", "function_call_output"], ["function_call"] * 2 + ["function_call_output"] * 2
    assert kinds == ["user", *(pair if "hand" in name else []), *both, *both, "message"], name
    calls = [item["call_id"] for item in items if item.get("type") == "function_call"]
    outputs = {item["call_id"]: item["output"] for item in items if item.get("type") == "function_call_output"}
    assert sorted(calls) == sorted(outputs), name
    for tool in POLICIES:
        allowed = {f"{tool} {name}"} | ({UNKNOWN_OUTCOME} if tool == "send" else set())
        assert outputs[f"{name}.{tool}"] in allowed, name


def check_calls(file: CallFile, names: Collection[str]) -> None:
    """Assert what the policies promise: at most once never twice, and one key over all attempts of a call."""
    counts = file.counts()
    keys: dict[str, set[str]] = {}
    for kind, call, *rest in file.lines():
        if kind == "tool":
            keys.setdefault(call, set()).add(rest[0])
    for name in names:
        assert counts[f"tool {name}.send"] <= 1, name
        for tool in ("look", "book", "pay"):
            assert counts[f"tool {name}.{tool}"] >= 1, name
            assert len(keys[f"{name}.{tool}"]) == 1, name
    used = [key for found in keys.values() for key in found]
    assert len(used) == len(set(used))
