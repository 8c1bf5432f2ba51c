"""Attempts of one run over a log in memory: cut after any number of writes, and gone on with by another execution."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents import Model, ModelResponse, Usage
from agents.testing import assistant_message, function_call
from sqlalchemy.ext.asyncio import create_async_engine

from app.domain.errors import LeaseLost
from app.domain.models.runs import ClaimedRun, RunOutcome
from app.domain.run_ports import AgentExecution
from app.infrastructure.providers.openai.provider import ProviderOptions, build_openai_provider
from app.infrastructure.providers.openai.run_config import RunDefaults
from tests.provider.memory_log import MemoryLog, claimed, continued

USAGE = Usage(requests=1, input_tokens=10, output_tokens=5, total_tokens=15)
END = [assistant_message("end")]


@dataclass
class Answers(Model):
    """A model that answers by how many outputs of tools it is shown: the same in every attempt."""

    by_outputs: dict[int, list[Any]]
    asked: Counter[int] = field(default_factory=Counter[int])
    tools: list[str] = field(default_factory=list[str])
    """What it was offered last."""

    async def get_response(self, *given: Any, **_options: Any) -> ModelResponse:
        outputs = sum(str(item.get("type")).endswith("_output") for item in given[1])
        self.asked[outputs] += 1
        self.tools = [tool.name for tool in given[3]]
        return ModelResponse(list(self.by_outputs.get(outputs, END)), USAGE, f"resp_{outputs}")

    def stream_response(self, *_given: Any, **_options: Any) -> AsyncIterator[Any]:
        raise NotImplementedError


def call(name: str, call_id: str, **arguments: Any) -> Any:
    return function_call(name, arguments, call_id=call_id)


def opened(agents: Sequence[Any], log: MemoryLog, run: ClaimedRun | None = None, **defaults: Any) -> AgentExecution:
    """Open an execution as a process does that has claimed the run."""
    provider = build_openai_provider(
        create_async_engine("sqlite+aiosqlite://"), agents, options=ProviderOptions(defaults=RunDefaults(**defaults))
    )
    return provider.runtime.open(run or claimed(), log)


async def whole(agents: Sequence[Any], **options: Any) -> tuple[RunOutcome, MemoryLog]:
    """Run without any accident."""
    log = MemoryLog(**options)
    outcome = await opened(agents, log).run()
    log.flush()
    return outcome, log


async def cut(agents: Sequence[Any], writes: int) -> MemoryLog:
    """Run in a process that is lost after some writes; return what it left on disk."""
    log = MemoryLog(writes=writes)
    try:
        await opened(agents, log).run()
    except LeaseLost:
        return continued(log)
    raise AssertionError(f"The run came to its end with {writes} writes.")


async def gone_on(agents: Sequence[Any], log: MemoryLog, **claim: Any) -> tuple[RunOutcome, MemoryLog]:
    """Go on from what is on disk, in another process that would fail if the agent asked anything else than before."""
    later = continued(log)
    outcome = await opened(agents, later, claimed(log, fence=2, **claim), on_replay_mismatch="fail").run()
    later.flush()
    return outcome, later


async def at_every_write(
    make: Callable[[], Sequence[Any]], **claim: Any
) -> AsyncIterator[tuple[RunOutcome, MemoryLog]]:
    """Lose the process after 0, 1, 2, ... writes, go on in another, and yield how that ended."""
    for writes in range(60):
        log = MemoryLog(writes=writes)
        try:
            outcome = await opened(make(), log, claimed(**claim)).run()
        except LeaseLost:
            yield await gone_on(make(), log, **claim)
            continue
        log.flush()
        yield outcome, log
        return
    raise AssertionError("the run never came to its end")


def outputs_of(outcome: RunOutcome) -> dict[str, Any]:
    return {item["call_id"]: item["output"] for item in outcome.items if "output" in item}
