"""A hundred runs at once over ten conversations: in one process and in two, nothing lost, doubled or interleaved."""

import asyncio
import os
import sys
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from app.infrastructure.persistence.conversations import SqlConversationStore
from app.infrastructure.persistence.engine import build_engine
from tests.crash.worker import CALLER, check_conversation, working

ROOT = Path(__file__).parents[2]
RUNS = 100
CONVERSATIONS = 10


async def opened(engine: AsyncEngine) -> list[str]:
    store = SqlConversationStore(engine)
    return [
        (await store.create(CALLER, agent="scribe", provider="openai", provider_conversation_id=None)).id
        for _ in range(CONVERSATIONS)
    ]


async def test_one_process(engine: AsyncEngine) -> None:
    conversations = await opened(engine)
    texts = [f"{'tool ' if number % 2 else ''}n{number:03d}." for number in range(RUNS)]
    async with working(engine) as worker:
        results = await asyncio.gather(
            *(worker.say(text, conversations[index % CONVERSATIONS]) for index, text in enumerate(texts))
        )
    assert [result.status.value for result in results] == ["completed"] * RUNS
    assert [result.output for result in results] == [f"re: {text}" for text in texts]
    for index, conversation in enumerate(conversations):
        await check_conversation(engine, conversation, texts[index::CONVERSATIONS])


async def test_two_processes(postgresql_url: str) -> None:
    engine = build_engine(postgresql_url)
    conversations = await opened(engine)
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.crash.crowd", postgresql_url, str(first), str(first + RUNS // 2)),
            *conversations,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for first in (0, RUNS // 2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    told = [
        (await done)[0].decode()
        for done in [asyncio.create_task(process.communicate(b"go\n")) for process in processes]
    ]
    lines = [line.split(" ", 2) for text in told for line in text.splitlines()]
    assert len(lines) == RUNS
    assert {(status, right) for status, right, _ in lines} == {("completed", "True")}
    for index, conversation in enumerate(conversations):
        texts = [text for number, (_, _, text) in enumerate(lines) if number % CONVERSATIONS == index]
        await check_conversation(engine, conversation, texts)
    await engine.dispose()
