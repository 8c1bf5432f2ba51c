"""A run whose process is lost after any of its writes goes on elsewhere, and repeats nothing that is recorded."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    Model,
    ModelResponse,
    Runner,
    Usage,
    function_tool,
    handoff,
    input_guardrail,
)
from agents.testing import assistant_message, function_call
from agents.tool import ToolOutputImage
from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import LeaseLost
from app.domain.models.runs import CancelReason, Run, RunBatch, RunRequest, RunResult, RunStatus
from app.domain.models.tools import current_tool_call, tool_policy
from app.infrastructure.persistence.engine import writing
from app.infrastructure.persistence.journal import SqlRunJournal
from app.infrastructure.persistence.tables import run_steps, run_usage, runs
from app.infrastructure.providers.openai.journal_tools import UNKNOWN_OUTCOME
from app.infrastructure.providers.openai.provider import ProviderOptions, build_openai_provider
from app.infrastructure.providers.openai.run_config import RunDefaults
from app.services.executions import ExecutionLimits
from tests.assembly import RunProcess, run_process
from tests.crash.worker import CALLER, items_of

USAGE = Usage(requests=1, input_tokens=10, output_tokens=5, total_tokens=15)
Answer = list[Any]


class Dying(SqlRunJournal):
    """Takes a number of writes, then is as good as dead: nothing of this process is written any more."""

    def __init__(self, engine: AsyncEngine, writes: int) -> None:
        super().__init__(engine, lease_s=30)
        self.left = writes

    async def record(self, run: Run, batch: RunBatch) -> CancelReason | None:
        self._live()
        return await super().record(run, batch)

    async def finish(self, run: Run, record: Any) -> None:
        self._live()
        await super().finish(run, record)

    def _live(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise LeaseLost("dead")


class Scripted(Model):
    """Answers by how many outputs of tools it is shown, so that any attempt gets the same; counts its calls."""

    def __init__(self, name: str, calls: Counter[str], *answers: Answer) -> None:
        self.model = name
        self.calls = calls
        self.answers = answers

    async def get_response(self, *arguments: Any, **options: Any) -> ModelResponse:
        items = arguments[1] if len(arguments) > 1 else options["input"]
        outputs = 0 if isinstance(items, str) else sum(item.get("type") == "function_call_output" for item in items)
        answer, seen = self.answers[-1], 0
        for candidate in self.answers:
            if seen >= outputs:
                answer = candidate
                break
            seen += len(candidate)
        self.calls[f"{self.model}/{outputs}"] += 1
        return ModelResponse(list(answer), USAGE, f"resp_{self.model}_{outputs}")

    def stream_response(self, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        raise NotImplementedError


def call(name: str, call_id: str, **arguments: Any) -> Any:
    return function_call(name, arguments, call_id=call_id)


@asynccontextmanager
async def process(
    engine: AsyncEngine, agents: Sequence[Any], writes: int = 10_000, **defaults: Any
) -> AsyncIterator[RunProcess]:
    provider = build_openai_provider(engine, agents, options=ProviderOptions(defaults=RunDefaults(**defaults)))
    await provider.start()
    try:
        async with run_process(
            engine,
            provider,
            journal=Dying(engine, writes),
            execution=ExecutionLimits(timeout_s=20),
            take_over=True,
        ) as running:
            yield running
    finally:
        await provider.aclose()


class Losing:
    """Runs agents in a process that is lost after a number of writes, and then in another one."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.did: Counter[str] = Counter()
        self.run_id = ""

    async def run(self, writes: int, agents: Sequence[Any], later: Sequence[Any] | None = None, **defaults: Any) -> Any:
        """Return how the run ended, and whether its first process was lost."""
        lost = False
        async with process(self.engine, agents, writes) as first:
            handle = await first.runs.start(RunRequest(CALLER, "go"))
            self.run_id = handle.run_id
            live = first.executions.live(CALLER, handle.run_id)
            assert live is not None
            try:
                await live.wait()
            except LeaseLost:
                lost = True
        if lost:
            async with writing(self.engine) as connection:
                await connection.execute(update(runs).where(runs.c.id == handle.run_id).values(lease_until_ms=1))
        async with process(self.engine, later or agents, **defaults) as second:
            result = await asyncio.wait_for(second.runs.result(CALLER, handle.run_id), 15)
            events = [one async for batch in second.runs.events(CALLER, handle.run_id) for one in batch.events]
        assert [one.sequence for one in events] == list(range(1, len(events) + 1))
        assert [one.event.type for one in events].count("run.completed") == (result.status is RunStatus.COMPLETED)
        return result, lost

    async def at_every_write(
        self, make: Callable[[], Sequence[Any]], check: Callable[[RunResult], None], *, least: int
    ) -> None:
        """Lose the process after 0, 1, 2, ... writes, until one comes through."""
        for writes in range(60):
            self.did.clear()
            result, lost = await self.run(writes, make())
            assert result.status is RunStatus.COMPLETED, (writes, result.error)
            check(result)
            # One thing at most was under way when the process was lost, or one of each in parallel.
            assert all(count <= 2 for count in self.did.values()), (writes, self.did)
            if not lost:
                assert writes >= least
                assert set(self.did.values()) == {1}, self.did
                return
        raise AssertionError("the run never came to its end")

    async def rows(self, table: Any) -> list[Any]:
        async with self.engine.connect() as connection:
            return list((await connection.execute(select(table).where(table.c.run_id == self.run_id))).all())


@pytest.fixture
def losing(sqlite_engine: AsyncEngine) -> Losing:
    return Losing(sqlite_engine)


def outputs_of(result: RunResult) -> dict[str, Any]:
    return {item["call_id"]: item["output"] for item in result.items if "output" in item}


def kinds_of(result: RunResult) -> list[str]:
    return [item.get("type") or item["role"] for item in result.items]


async def test_parallel_tools_and_three_model_calls(losing: Losing) -> None:
    did = losing.did

    @tool_policy("idempotent")
    @function_tool
    async def left() -> str:
        """Left."""
        did["left"] += 1
        return "L"

    @function_tool
    @tool_policy("idempotent")
    async def right() -> dict[str, int]:
        """Right; the policy may stand below the SDK's decorator, too."""
        did["right"] += 1
        return {"r": 1}

    @tool_policy("idempotent")
    @function_tool
    def third() -> Any:
        """Third; a picture, from a thread."""
        did["third"] += 1
        return ToolOutputImage(image_url="https://example.test/p.png")

    def agents() -> list[Any]:
        model = Scripted(
            "m", did, [call("left", "c1"), call("right", "c2")], [call("third", "c3")], [assistant_message("end")]
        )
        return [Agent(name="a", model=model, tools=[left, right, third])]

    def check(result: RunResult) -> None:
        assert result.output == "end"
        assert Counter(kinds_of(result)) == {"user": 1, "function_call": 3, "function_call_output": 3, "message": 1}
        outputs = outputs_of(result)
        assert (outputs["c1"], outputs["c2"]) == ("L", "{'r': 1}")
        assert outputs["c3"][0]["image_url"] == "https://example.test/p.png"
        assert [one.step for one in result.calls] == ["/m1", "/m2", "/m3"]
        assert result.usage.requests == 3
        assert len(result.tool_calls) == 3

    await losing.at_every_write(agents, check, least=6)
    assert len(await losing.rows(run_usage)) == 3


async def test_a_tool_is_not_repeated_unless_it_says_it_may(losing: Losing) -> None:
    did = losing.did

    @function_tool
    async def pay() -> str:
        """Pay."""
        did["pay"] += 1
        return "paid"

    def agents() -> list[Any]:
        return [
            Agent(
                name="a", model=Scripted("m", Counter(), [call("pay", "c1")], [assistant_message("end")]), tools=[pay]
            )
        ]

    seen: list[str] = []
    for writes in range(10):
        did.clear()
        result, lost = await losing.run(writes, agents())
        assert did["pay"] <= 1
        seen.append(outputs_of(result)["c1"])
        if not lost:
            break
    # lost before the call was on disk; before and after the tool began; after its output was recorded; not at all
    assert seen[0] == "paid"
    assert seen.count(UNKNOWN_OUTCOME) == 1
    assert seen[-1] == "paid"


async def test_a_key_is_the_same_in_every_attempt(losing: Losing) -> None:
    keys: set[str] = set()
    attempts: set[int] = set()

    @tool_policy("idempotency_key")
    @function_tool
    async def pay() -> str:
        """Pay."""
        keys.add(current_tool_call().idempotency_key)
        attempts.add(current_tool_call().attempt)
        return "paid"

    model = Scripted("m", Counter(), [call("pay", "c1")], [assistant_message("end")])
    result, lost = await losing.run(1, [Agent(name="a", model=model, tools=[pay])])
    assert lost
    assert result.status is RunStatus.COMPLETED
    assert keys == {f"{result.run_id}:/t:c1"}
    assert attempts == {1, 2}


@pytest.mark.parametrize("fails", [False, True])
async def test_a_transactional_tool_writes_once_or_not_at_all(losing: Losing, fails: bool) -> None:
    async with writing(losing.engine) as connection:
        await connection.execute(text("CREATE TABLE payments (run TEXT)"))

    @tool_policy("transactional")
    @function_tool
    async def pay() -> str:
        """Pay."""
        current = current_tool_call()
        await current.session.execute(text("INSERT INTO payments VALUES (:run)"), {"run": current.run_id})
        await current.session.commit()  # harmless: it is the step that commits
        if fails:
            raise ValueError("no money")
        return "paid"

    for writes in range(10):
        model = Scripted("m", Counter(), [call("pay", "c1")], [assistant_message("end")])
        result, lost = await losing.run(writes, [Agent(name="a", model=model, tools=[pay])])
        assert result.status is RunStatus.COMPLETED
        async with losing.engine.connect() as connection:
            paid = (
                await connection.execute(text("SELECT count(*) FROM payments WHERE run = :run"), {"run": losing.run_id})
            ).scalar_one()
        assert paid == (0 if fails else 1), writes
        assert (outputs_of(result)["c1"] != "paid") == fails
        if not lost:
            break


async def test_handoffs_in_a_circle(losing: Losing) -> None:
    did = losing.did

    def agents() -> list[Any]:
        one: Agent[Any] = Agent(name="one")
        two: Agent[Any] = Agent(name="two")
        to_two, to_one = handoff(two), handoff(one)
        one.model = Scripted("one", did, [call(to_two.tool_name, "h1")], [], [assistant_message("end")])
        two.model = Scripted("two", did, [], [call(to_one.tool_name, "h2")])
        one.handoffs, two.handoffs = [to_two], [to_one]
        one.model.answers = ([call(to_two.tool_name, "h1")], [assistant_message("never")], [assistant_message("end")])
        return [one, two]

    def check(result: RunResult) -> None:
        assert result.output == "end"
        assert result.agent == "one"
        assert [(hand.from_agent, hand.to_agent) for hand in result.handoffs] == [("one", "two"), ("two", "one")]

    await losing.at_every_write(agents, check, least=4)


async def test_agents_used_as_tools_at_the_same_time(losing: Losing) -> None:
    did = losing.did

    @tool_policy("idempotent")
    @function_tool
    async def dig(place: str) -> str:
        """Dig."""
        did[f"dig {place}"] += 1
        return f"found in {place}"

    def inner(place: str) -> Any:
        model = Scripted(f"in_{place}", did, [call("dig", "call_0", place=place)], [assistant_message(f"said {place}")])
        return Agent(name=f"in_{place}", model=model, tools=[dig]).as_tool(f"ask_{place}", "Ask.")

    def agents() -> list[Any]:
        asks = [call("ask_x", "c1", input="?"), call("ask_y", "c2", input="?")]
        return [
            Agent(name="a", model=Scripted("m", did, asks, [assistant_message("end")]), tools=[inner("x"), inner("y")])
        ]

    def check(result: RunResult) -> None:
        assert outputs_of(result) == {"c1": "said x", "c2": "said y"}
        assert {one.step for one in result.calls} == {
            "/m1",
            "/m2",
            *(f"/t:{outer}/m{number}" for outer in ("c1", "c2") for number in (1, 2)),
        }

    await losing.at_every_write(agents, check, least=8)


async def test_a_guardrail_that_asks_a_model(losing: Losing) -> None:
    did = losing.did

    def agents() -> list[Any]:
        judge = Agent(name="judge", model=Scripted("judge", did, [assistant_message("fine")]))

        @input_guardrail(run_in_parallel=False)
        async def polite(_context: Any, _agent: Any, _input: Any) -> GuardrailFunctionOutput:
            verdict = await Runner.run(judge, "is it?")
            return GuardrailFunctionOutput(output_info={"said": verdict.final_output}, tripwire_triggered=False)

        @tool_policy("idempotent")
        @function_tool
        async def look() -> str:
            """Look."""
            did["look"] += 1
            return "seen"

        model = Scripted("m", did, [call("look", "c1")], [assistant_message("end")])
        return [Agent(name="a", model=model, tools=[look], input_guardrails=[polite])]

    def check(result: RunResult) -> None:
        assert {one.step for one in result.calls} == {"/g:polite/m1", "/m1", "/m2"}

    await losing.at_every_write(agents, check, least=4)
    (verdict,) = [step for step in await losing.rows(run_steps) if step.kind == "guardrail"]
    assert verdict.step == "/g:polite"
    assert verdict.result == {"output_info": {"said": "fine"}, "tripwire_triggered": False}


@pytest.mark.parametrize("policy", ["continue", "fail"])
async def test_code_that_changed_meanwhile(losing: Losing, policy: Any) -> None:
    @function_tool
    async def look() -> str:
        """Look."""
        return "seen"

    def agent(instructions: str) -> Any:
        model = Scripted("m", losing.did, [call("look", "c1")], [assistant_message("end")])
        return Agent(name="a", instructions=instructions, model=model, tools=[look])

    result, lost = await losing.run(3, [agent("Be good.")], [agent("Be better.")], on_replay_mismatch=policy)
    assert lost
    if policy == "continue":
        assert result.output == "end"
        assert losing.did["m/0"] == 1  # the recorded answer counts, whatever the agent would ask today
    else:
        assert result.error is not None
        assert result.error.code == "replay_mismatch"


async def test_a_lost_run_that_someone_cancelled_is_closed_with_what_it_had(losing: Losing) -> None:
    @function_tool
    async def look() -> str:
        """Look."""
        return "seen"

    def agents() -> list[Any]:
        model = Scripted("m", losing.did, [call("look", "c1")], [call("look", "c2")], [assistant_message("end")])
        return [Agent(name="a", model=model, tools=[look])]

    async with process(losing.engine, agents(), 4) as first:  # m1, look begun, look done, m2; then the second look
        handle = await first.runs.start(RunRequest(CALLER, "go"))
        live = first.executions.live(CALLER, handle.run_id)
        assert live is not None
        with pytest.raises(LeaseLost):
            await live.wait()
        assert await first.journal.request_cancel(CALLER, handle.run_id, "user") is RunStatus.RUNNING
    async with writing(losing.engine) as connection:
        await connection.execute(update(runs).where(runs.c.id == handle.run_id).values(lease_until_ms=1))
    async with process(losing.engine, agents()) as second:
        result = await asyncio.wait_for(second.runs.result(CALLER, handle.run_id), 15)
    assert result.status is RunStatus.CANCELLED
    outputs = outputs_of(result)
    assert outputs["c1"] == "seen"
    assert "interrupted" in outputs["c2"]
    assert losing.did == {"m/0": 1, "m/1": 1}
    history = await items_of(losing.engine, handle.conversation_id)
    assert json.dumps(history[-1])
    assert len(history) == 5
