"""`python -m benchmarks [names] [--quick]`: measure ours and the peers in turns, and print tables. Exits 0."""

import argparse
import asyncio
import os
import platform
import sys
import time
from contextlib import ExitStack, redirect_stderr
from importlib.metadata import version

from app.bootstrap import set_up_logs
from benchmarks import (
    capture,
    deltas,
    destinations,
    gateway,
    ingest,
    long_history,
    readers,
    runs,
    sessions,
    steps,
    surfaces,
)
from benchmarks.databases import Database, open_databases
from benchmarks.measuring import Scale
from benchmarks.systems import settings_for

BENCHMARKS = {
    "runs": runs.measure,
    "history": long_history.measure,
    "deltas": deltas.measure,
    "sessions": sessions.measure,
    "steps": steps.measure,
    "readers": readers.measure,
    "gateway": gateway.measure,
    "surfaces": surfaces.measure,
    "destinations": destinations.measure,
    "ingest": ingest.measure,
    "capture": capture.measure,
}
_PEERS = ("openai-agents", "openai", "SQLAlchemy", "asyncpg", "aiosqlite", "fastapi", "uvicorn", "uvloop")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(BENCHMARKS)}; none: all")
    parser.add_argument("--quick", action="store_true", help="a smoke run: every path once or twice, figures are noise")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"there is no benchmark '{unknown[0]}'; there are {', '.join(BENCHMARKS)}")
    scale = Scale.quick() if arguments.quick else Scale()
    started = time.monotonic()
    with ExitStack() as stack:
        # Ours logs as a server does, one JSON line a run and a request; nobody reads it here.
        stack.enter_context(redirect_stderr(stack.enter_context(open(os.devnull, "w", encoding="utf-8"))))  # noqa: PTH123
        set_up_logs(settings_for("sqlite://"))
        databases = stack.enter_context(open_databases())
        _print_head(databases, scale)
        for name in arguments.names or BENCHMARKS:
            asyncio.run(BENCHMARKS[name](databases, scale))
    print(f"\n{time.monotonic() - started:.0f} s in all")


def _print_head(databases: list[Database], scale: Scale) -> None:
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()} {sys.platform}; ", end="")
    print(", ".join(f"{name} {version(name)}" for name in _PEERS))
    print("; ".join(database.note for database in databases))
    print(
        f"{scale.rounds} rounds in turns; figures are medians over rounds; a ratio is ours / peer of the medians, "
        "behind it the least and the greatest of a single round."
    )
    if scale.is_quick:
        print("--quick: every path runs, the figures are noise.")


if __name__ == "__main__":
    main()
