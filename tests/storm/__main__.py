"""`python -m tests.storm`: a storm over SQLite, or a PostgreSQL of its own; fails when an event is lost."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.databases import PostgresServer, prepare_schema
from tests.storm.storm import Plan, Storm, table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.storm", description=__doc__)
    for name, default in (("events", 100_000), ("kills", 20), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=40.0, help="over which the events are offered")
    parser.add_argument("--fsync", action="store_true", help="wait for the disk; kills throw away what is not on it")
    parser.add_argument("--postgresql", action="store_true", help="instead of SQLite")
    given = parser.parse_args()
    mode = "fsync" if given.fsync else "spool"
    plan = Plan(given.events, given.kills, given.seed, mode, capture_s=given.seconds)
    server = PostgresServer() if given.postgresql else None
    try:
        with tempfile.TemporaryDirectory(prefix="storm-") as folder:
            url = f"sqlite:///{folder}/storm.db"
            if server is not None:
                server.start()
                url = server.url("postgres")
            prepare_schema(url)
            figures = asyncio.run(Storm(plan, url, Path(folder)).run())
        print(f"{'PostgreSQL' if given.postgresql else 'SQLite'}, seed {plan.seed}\n{table(plan, figures)}")
    finally:
        if server is not None:
            server.remove()
    return 0


if __name__ == "__main__":
    sys.exit(main())
