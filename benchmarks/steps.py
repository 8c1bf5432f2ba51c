"""What a step costs: runs of many tool calls, recorded one by one, against the bare Runner that records nothing."""

from functools import partial
from typing import Any

from agents import Agent, Runner, function_tool

from app.bootstrap import engine_of, open_container, upgrade_database
from app.domain.models.runs import RunOptions, RunRequest, RunStatus
from app.domain.models.tools import tool_policy
from benchmarks.databases import Database
from benchmarks.instant_model import ANSWER, CountedModel
from benchmarks.measuring import Contestant, Sample, Scale, cpu_ms, in_turns, timed, wall_ms
from benchmarks.report import print_table
from benchmarks.systems import CALLER, INPUT, settings_for

CALLS = 20
"""Tool calls of one run, one after the other; each is a step, and so is each of the model's `CALLS + 1` answers."""
STEPS = 2 * CALLS + 1

_HEADER = ("database", "steps", "us/step ours", "bare Runner", "journal us/step", "runs/s ours", "bare Runner")


async def measure(databases: list[Database], scale: Scale) -> None:
    """Print the table."""
    rows: list[list[object]] = []
    for database in databases:
        async with database.fresh() as url:
            settings = settings_for(url)
            await upgrade_database(settings)
            engine = engine_of(settings)
            try:
                async with open_container(settings, agents=[_agent()], engine=engine) as container:

                    async def run_ours(container: Any = container) -> None:
                        result = await container.runs.run(
                            RunRequest(CALLER, INPUT, options=RunOptions(max_turns=CALLS + 1))
                        )
                        if result.status is not RunStatus.COMPLETED or len(result.tool_calls) != CALLS:
                            raise RuntimeError(f"our run ended as {result.status}: {result.error}")

                    samples = await _samples(run_ours, scale)
            finally:
                await engine.dispose()
        rows.append([database.name, STEPS, *_figures(samples)])
    print_table(
        "5. CPU per recorded step",
        [
            f"A run of {CALLS} idempotent tool calls in turn: {STEPS} steps, each a transaction of its own.",
            "ours: RunService.run, the start and the end of the run included; bare Runner: Runner.run, no session, no",
            "database. The difference is what journal, events, usage, history and the run's own rows cost, by step.",
        ],
        _HEADER,
        rows,
    )


def _agent() -> Agent[Any]:
    @tool_policy("idempotent")
    @function_tool
    def look(number: int) -> str:
        """Look at something."""
        return f"{number}: nothing new"

    return Agent(
        name="walker",
        instructions="You look around.",
        model=CountedModel("look", CALLS),
        tools=[look],
    )


async def _samples(run_ours: Any, scale: Scale) -> dict[str, list[Sample]]:
    bare = _agent()

    async def run_bare() -> None:
        result = await Runner.run(bare, INPUT, max_turns=CALLS + 1)
        if result.final_output != ANSWER:
            raise RuntimeError("the bare Runner gave another answer")

    amount = scale.step_runs
    return await in_turns(
        {
            "ours": Contestant(partial(timed, [run_ours] * amount)),
            "bare": Contestant(partial(timed, [run_bare] * amount)),
        },
        scale,
    )


def _figures(samples: dict[str, list[Sample]]) -> list[object]:
    ours, bare = (cpu_ms(samples[name]) * 1000 / STEPS for name in ("ours", "bare"))
    return [ours, bare, ours - bare, *(1000 / wall_ms(samples[name]) for name in ("ours", "bare"))]
