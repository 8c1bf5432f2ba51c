"""A process that runs its share of many runs over given conversations: `url first last conversation...`."""

import asyncio
import sys

from app.infrastructure.persistence.engine import EngineLimits, build_engine
from app.infrastructure.telemetry.logs import configure_logs
from tests.crash.worker import working


async def main() -> None:
    url, first, last, *conversations = sys.argv[1:]
    engine = build_engine(url, EngineLimits(pool_size=5))
    async with working(engine) as worker:
        print("ready", flush=True)
        sys.stdin.readline()
        texts = [f"{'tool ' if number % 2 else ''}n{number:03d}." for number in range(int(first), int(last))]
        results = await asyncio.gather(
            *(worker.say(text, conversations[index % len(conversations)]) for index, text in enumerate(texts))
        )
    await engine.dispose()
    for text, result in zip(texts, results, strict=True):
        print(result.status.value, result.output == f"re: {text}", text, flush=True)


if __name__ == "__main__":
    configure_logs("error", "json")
    asyncio.run(main())
