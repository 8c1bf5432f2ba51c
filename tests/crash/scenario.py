"""A run with three model calls and three tools whose every call leaves a line in a file, which survives a kill.

The model keeps nothing: what it answers follows from the items it is given, so any process can go on with it.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from agents import Agent, Model, ModelResponse, Usage, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call
from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.models.tools import ToolPolicy, current_tool_call, tool_policy

USAGE = Usage(requests=1, input_tokens=10, output_tokens=5, total_tokens=15)

POLICIES = {
    "look": ToolPolicy.IDEMPOTENT,
    "send": ToolPolicy.AT_MOST_ONCE,
    "book": ToolPolicy.TRANSACTIONAL,
    "pay": ToolPolicy.IDEMPOTENCY_KEY,
}
INSERT_BOOKING = "INSERT INTO bookings (name) VALUES (:name)"


class CallFile:
    """Lines that several processes add to one file, each in one write."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, *words: object) -> None:
        """Add a line; it is there at once, whatever happens to the process."""
        line = " ".join(str(word) for word in words) + "\n"
        number = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(number, line.encode())
        finally:
            os.close(number)

    def lines(self) -> list[list[str]]:
        """All lines so far, as words."""
        return [line.split() for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def counts(self) -> Counter[str]:
        """How often each first two words occur, e.g. `model c1/2` or `tool c1.a`."""
        return Counter(" ".join(line[:2]) for line in self.lines())


def name_of(items: list[Any]) -> str:
    """The name of the run that a model or a test is looking at: its last user text."""
    return next(item["content"] for item in reversed(items) if item.get("role") == "user")


class CountedModel(Model):
    """Asks for two tools, then for two more, then answers; a name with `hand` in it is handed over before."""

    model = "scripted"

    def __init__(self, file: CallFile, pause_s: float = 0) -> None:
        self.file = file
        self.pause_s = pause_s

    async def get_response(self, *arguments: Any, **options: Any) -> ModelResponse:
        output = await self._answer(arguments[1] if len(arguments) > 1 else options["input"])
        return ModelResponse(output, USAGE, "resp")

    async def stream_response(self, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        output = await self._answer(arguments[1] if len(arguments) > 1 else options["input"])
        scripted = ScriptedModel([output])
        scripted.set_default_usage(USAGE)
        async for event in scripted.stream_response(*arguments, **options):
            yield event

    async def _answer(self, items: list[Any]) -> list[Any]:
        name = name_of(items)
        since = items[max(number for number, item in enumerate(items) if item.get("role") == "user") :]
        done = sum(item.get("type") == "function_call_output" for item in since)
        handed = int("hand" in name)
        turn = handed + 1 + (done - handed) // 2 if done else 1
        self.file.add("model", f"{name}/m{turn}")
        await asyncio.sleep(self.pause_s)
        if handed and not done:
            return [function_call("transfer_to_closer", {}, call_id=f"{name}.hand")]
        wanted = {0: ("look", "send"), 2: ("book", "pay")}.get(done - handed)
        if wanted is None:
            return [assistant_message(f"re: {name}", item_id=f"msg_{name}")]
        return [function_call(tool, {"name": name}, call_id=f"{name}.{tool}") for tool in wanted]


def build_agent(file: CallFile, pause_s: float = 0, *, asking: bool = False) -> Agent[Any]:
    """The agent of the scenario: a tool for every policy, all of which note their calls in the file.

    `asking`: its first `send` waits for a person.
    """

    async def call(tool: str, name: str) -> str:
        current = current_tool_call()
        file.add("tool", f"{name}.{tool}", current.idempotency_key, current.attempt)
        if current.session is not None:
            await current.session.execute(sql(INSERT_BOOKING), {"name": name})
        await asyncio.sleep(pause_s)
        return f"{tool} {name}"

    def tool(kind: str, policy: ToolPolicy) -> Any:
        @function_tool(name_override=kind)
        async def counted(name: str) -> str:
            """Do something with a name."""
            return await call(kind, name)

        return tool_policy(policy)(counted)

    tools = [tool(kind, policy) for kind, policy in POLICIES.items()]
    if asking:
        tools[list(POLICIES).index("send")].needs_approval = True
    model = CountedModel(file, pause_s)
    closer = Agent(name="closer", model=model, tools=tools)
    return Agent(name="scribe", model=model, tools=tools, handoffs=[closer])


async def make_bookings(engine: AsyncEngine) -> None:
    """Create the table that the transactional tool writes in."""
    async with engine.begin() as connection:
        await connection.execute(sql("CREATE TABLE bookings (name VARCHAR(80) NOT NULL)"))


async def bookings(engine: AsyncEngine) -> Counter[str]:
    """How many rows the transactional tool has written for each name."""
    async with engine.connect() as connection:
        return Counter((await connection.execute(sql("SELECT name FROM bookings"))).scalars())
