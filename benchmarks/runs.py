"""CPU per run: ours with all it records, against the SDK's Runner with the SDK's own session store."""

from functools import partial

from benchmarks.databases import Database
from benchmarks.measuring import Contestant, Sample, Scale, cpu_ms, in_turns, ratio_of, timed, wall_ms
from benchmarks.report import print_table
from benchmarks.systems import ONE_TOOL, PLAIN, Ours, Sdk, open_systems

TARGET = 0.7
TARGET_AT = 100
WINDOW = 100
"""The default number of history items that a run of ours shows the model."""

_HEADER = (
    "database",
    "run",
    "history",
    "ours",
    "ours, whole",
    "SDK",
    "ratio",
    "ratio, whole history",
    "target",
    "runs/s ours",
    "whole",
    "SDK",
)


async def measure(databases: list[Database], scale: Scale) -> None:
    """Print the table."""
    rows: list[list[object]] = []
    for database in databases:
        async with open_systems(database) as (ours, sdk):
            for agent in (PLAIN, ONE_TOOL):
                for size in scale.runs:
                    samples = await _samples(ours, sdk, agent, size, scale)
                    rows.append([database.name, agent, size, *_figures(samples, size)])
    print_table(
        "1. CPU ms per run (one at a time)",
        [
            "ours: RunService.run, which records run, steps, events, usage, cost, messages, history, completion event.",
            f"It shows the model the latest {WINDOW} items. 'whole': told to show all of them, which is like for like.",
            "SDK: Runner.run with a fresh SQLAlchemySession a run. History 0: a new conversation each time.",
        ],
        _HEADER,
        rows,
    )


def _figures(samples: dict[str, list[Sample]], size: int) -> list[object]:
    ours, sdk = samples["ours"], samples["sdk"]
    whole = samples.get("whole", ours)
    like_for_like = ratio_of(whole, sdk)
    return [
        cpu_ms(ours),
        cpu_ms(whole),
        cpu_ms(sdk),
        str(ratio_of(ours, sdk)),
        str(like_for_like),
        like_for_like.verdict(TARGET) if size == TARGET_AT else "",
        *(1000 / wall_ms(side) for side in (ours, whole, sdk)),
    ]


async def _samples(ours: Ours, sdk: Sdk, agent: str, size: int, scale: Scale) -> dict[str, list[Sample]]:
    amount = scale.runs[size]
    contestants = {"ours": await _ours(ours, agent, size, amount, None), "sdk": await _sdk(sdk, agent, size, amount)}
    if size > WINDOW:
        contestants["whole"] = await _ours(ours, agent, size, amount, size)
    return await in_turns(contestants, scale)


async def _ours(ours: Ours, agent: str, size: int, amount: int, window: int | None) -> Contestant:
    if not size:
        return Contestant(partial(timed, [partial(ours.run, agent, None)] * amount))
    ids, histories = await ours.conversations(amount, size)
    return Contestant(partial(timed, [partial(ours.run, agent, id_, window) for id_ in ids]), histories.cut_back)


async def _sdk(sdk: Sdk, agent: str, size: int, amount: int) -> Contestant:
    if not size:

        async def run_in_new_session() -> None:
            await sdk.run(agent, sdk.new_session_id())

        return Contestant(partial(timed, [run_in_new_session] * amount))
    ids, histories = await sdk.conversations(amount, size)
    return Contestant(partial(timed, [partial(sdk.run, agent, id_) for id_ in ids]), histories.cut_back)
