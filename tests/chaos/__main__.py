"""`python -m tests.chaos`: a storm on a PostgreSQL of its own; prints what it found, fails when something is wrong."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.chaos.storm import Plan, Storm, table
from tests.databases import PostgresServer, prepare_schema


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    for name, default in (("seed", 1), ("runs", 200), ("conversations", 20), ("kills", 25), ("freezes", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    plan = Plan(**vars(arguments))
    server = PostgresServer()
    try:
        server.start()
        prepare_schema(server.url("postgres"))
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            storm = Storm(plan, server.url("postgres"), Path(folder))
            figures = asyncio.run(storm.run())
        print(f"seed {plan.seed}\n{table(plan, figures)}")
    finally:
        server.remove()
    return 0


if __name__ == "__main__":
    sys.exit(main())
