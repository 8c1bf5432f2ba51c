"""The session store alone, without a run: append 2 items to a long session, read its latest 20."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from app.domain.identifiers import session_key
from benchmarks.databases import Database
from benchmarks.histories import history
from benchmarks.measuring import Contestant, Sample, Scale, cpu_ms, in_turns, p50_ms, ratio_of, timed
from benchmarks.report import print_table
from benchmarks.systems import CALLER, Ours, Sdk, open_systems

TARGET = 1.0
READ = 20

_HEADER = ("database", "call", "peer", "p50 ms ours", "peer", "ratio", "CPU ms ours", "peer", "ratio", "target CPU")

SessionOf = Callable[[], Any]


async def measure(databases: list[Database], scale: Scale) -> None:
    """Print the table."""
    rows: list[list[object]] = []
    for database in databases:
        async with open_systems(database) as (ours, sdk):
            rows += [[database.name, *row] for row in await _rows(ours, sdk, scale)]
    print_table(
        f"4. Session store: a session of {scale.long_history:,} items",
        [
            "ours: DurableSession from the store, a fresh object a call; SDK: SQLAlchemySession, fresh a call as in a",
            "stateless server, and one object kept for all calls.",
        ],
        _HEADER,
        rows,
    )


async def _rows(ours: Ours, sdk: Sdk, scale: Scale) -> list[list[object]]:
    (own_id, *_), own = await ours.conversations(1, scale.long_history)
    (peer_id, *_), theirs = await sdk.conversations(1, scale.long_history)
    key = session_key(CALLER.organization_id, own_id)
    kept = sdk.session(peer_id)
    store = ours.container.provider.sessions
    sides: dict[str, tuple[SessionOf, Callable[[], Awaitable[None]]]] = {
        "ours": (partial(store.session, key, organization_id=CALLER.organization_id), own.cut_back),
        "SDK, fresh": (partial(sdk.session, peer_id), theirs.cut_back),
        "SDK, kept": (lambda: kept, theirs.cut_back),
    }
    rows: list[list[object]] = []
    for name, call in (("add_items(2)", _append), (f"get_items({READ})", _read)):
        contestants = {
            side: Contestant(partial(timed, [partial(call, session_of)] * scale.session_calls), cut_back)
            for side, (session_of, cut_back) in sides.items()
        }
        samples = await in_turns(contestants, scale)
        rows += [[name, peer, *_figures(samples["ours"], samples[peer])] for peer in ("SDK, fresh", "SDK, kept")]
    return rows


def _figures(ours: list[Sample], peer: list[Sample]) -> list[object]:
    cpu = ratio_of(ours, peer)
    return [
        p50_ms(ours),
        p50_ms(peer),
        str(ratio_of(ours, peer, "p50_ms")),
        cpu_ms(ours),
        cpu_ms(peer),
        str(cpu),
        cpu.verdict(TARGET),
    ]


async def _append(session_of: SessionOf) -> None:
    await session_of().add_items([dict(item) for item in _NEW])


async def _read(session_of: SessionOf) -> None:
    items = await session_of().get_items(READ)
    if len(items) != READ:
        raise RuntimeError(f"{len(items)} items came back instead of {READ}")


_NEW = history(2)
