"""The worker processes of a storm, seen from the parent: started, asked, killed, frozen."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]


class Process:
    """One worker process. When it dies, whatever it was asked for and did not answer is answered with None."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Use `launch`."""
        self._process = process
        self._asked: dict[str, asyncio.Future[str | None]] = {}
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def launch(cls, url: str, calls: Path, lease_s: float, pause_s: float) -> Self:
        """Start a process and wait until it is ready."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.chaos.worker", url, str(calls), str(lease_s), str(pause_s)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert process.stdout is not None
        if await process.stdout.readline() != b"{}\n":
            raise RuntimeError("the worker did not start")
        return cls(process)

    @property
    def pid(self) -> int:
        """Its number, which is part of the name that it gives itself as an owner of runs."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it may answer; True while it is frozen."""
        return not self._reading.done()

    async def start(self, asked: dict[str, Any], timeout_s: float) -> str | None:
        """Ask for a run; None when the answer is lost, or late: ask again, whomever."""
        assert self._process.stdin is not None
        answer = self._asked.setdefault(asked["name"], asyncio.get_running_loop().create_future())
        if not self.alive:
            return None
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        done, _ = await asyncio.wait({answer}, timeout=timeout_s)
        return answer.result() if done else None

    async def kill(self) -> None:
        """Kill it, as the kernel does when memory runs out."""
        self._process.kill()
        await self._process.wait()
        await self._reading

    def freeze(self) -> None:
        """Stop it in its tracks; it notices nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    async def close(self) -> int:
        """Let it stop in order; returns its exit status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._reading
        return await self._process.wait()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            if not line.endswith(b"\n"):
                break  # killed while it wrote
            told = json.loads(line)
            answer = self._asked[told["name"]]
            if not answer.done():
                answer.set_result(told["run"])
        for answer in self._asked.values():
            if not answer.done():
                answer.set_result(None)
