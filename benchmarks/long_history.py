"""A run in a long conversation against one in a short conversation: its cost must not grow with the history."""

from functools import partial

from benchmarks.databases import Database
from benchmarks.measuring import Contestant, Sample, Scale, cpu_ms, in_turns, ratio_of, timed, wall_ms
from benchmarks.report import print_table
from benchmarks.systems import PLAIN, Ours, Sdk, open_systems

TARGET = 1.3
SHORT = 100
WINDOW = 100

_HEADER = ("database", "run", "CPU ms", "wall ms", "CPU ratio to the first", "wall ratio", "target CPU", "target wall")


async def measure(databases: list[Database], scale: Scale) -> None:
    """Print the table."""
    rows: list[list[object]] = []
    for database in databases:
        async with open_systems(database) as (ours, sdk):
            samples = await in_turns(await _contestants(ours, sdk, scale), scale)
        rows += [[database.name, *row] for row in _rows(samples)]
    print_table(
        f"2. A run in a conversation of {scale.long_history:,} items, without a tool",
        [f"ours shows the model the latest {WINDOW} items; the SDK's default shows all; beside it limit={WINDOW}"],
        _HEADER,
        rows,
    )


def _rows(samples: dict[str, list[Sample]]) -> list[list[object]]:
    base, *_ = samples.values()
    rows: list[list[object]] = []
    for name, side in samples.items():
        cpu, wall = ratio_of(side, base), ratio_of(side, base, "wall_ms")
        judged = name.startswith("ours") and side is not base
        verdicts = (cpu.verdict(TARGET), wall.verdict(TARGET)) if judged else ("", "")
        rows.append([name, cpu_ms(side), wall_ms(side), str(cpu), str(wall), *verdicts])
    return rows


async def _contestants(ours: Ours, sdk: Sdk, scale: Scale) -> dict[str, Contestant]:
    long, amount = scale.long_history, scale.long_runs
    return {
        f"ours, {SHORT} items": await _ours(ours, SHORT, amount),
        f"ours, {long:,} items": await _ours(ours, long, amount),
        f"SDK limit={WINDOW}, {long:,} items": await _sdk(sdk, long, amount, WINDOW),
        f"SDK, {long:,} items": await _sdk(sdk, long, 1, None),
    }


async def _ours(ours: Ours, size: int, amount: int) -> Contestant:
    # Two long conversations are enough, and filling them takes a while.
    ids, histories = await ours.conversations(2, size)
    turns = [partial(ours.run, PLAIN, ids[number % 2], WINDOW) for number in range(amount)]
    return Contestant(partial(timed, turns), histories.cut_back)


async def _sdk(sdk: Sdk, size: int, amount: int, limit: int | None) -> Contestant:
    ids, histories = await sdk.conversations(2, size)
    turns = [partial(sdk.run, PLAIN, ids[number % 2], limit) for number in range(amount)]
    return Contestant(partial(timed, turns), histories.cut_back)
