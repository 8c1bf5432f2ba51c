"""`python benchmarks/capture_client.py NAME URL EVENTS FOLDER`: capture events, print how long it took, and be killed.

Runs under whatever Python has the client, so it imports nothing of ours but for ours. The process kills itself right
after the last capture has returned. With 0 events it starts as a restarted program does, and ends in order.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

EVENT = {
    "session_id": "conv_1",
    "user_id": "ann",
    "session_type": "chat",
    "outcome": "success",
    "duration_ms": 1_234,
    "message_count": 2,
    "usage": {"input_tokens": 1_000, "output_tokens": 40, "total_tokens": 1_040, "model": "gpt-5.4-mini"},
    "metadata": {"tier": "pro", "region": "eu"},
}
"""As our own runs tell it, more or less."""

Client = tuple[Callable[[str], object], Callable[[], object]]
"""Captures an event that carries a mark; ends in order."""


def ours(url: str, folder: str) -> Client:
    from app.capture import SessionCompletionRuntime

    runtime = SessionCompletionRuntime("sk-bench", endpoint=url, mode="spool", spool_dir=folder)

    def end() -> None:
        runtime.flush(60)
        runtime.close()

    return lambda mark: runtime.capture({**EVENT, "event_id": mark}), end


def posthog(url: str, _folder: str) -> Client:
    from posthog import Posthog  # pyright: ignore[reportMissingImports]

    client: Any = Posthog("phc_bench", host=url)

    def capture(mark: str) -> None:
        client.capture("session.completed", distinct_id="ann", properties={**EVENT, "event_id": mark})

    return capture, client.shutdown


def langfuse(url: str, _folder: str) -> Client:
    from langfuse import Langfuse  # pyright: ignore[reportMissingImports]

    client: Any = Langfuse(public_key="pk-lf-bench", secret_key="sk-lf-bench", base_url=url)

    def capture(mark: str) -> None:
        client.create_event(name="session.completed", metadata={**EVENT, "event_id": mark})

    return capture, client.shutdown


CLIENTS: dict[str, Callable[[str, str], Client]] = {"ours": ours, "posthog": posthog, "langfuse": langfuse}


def main() -> None:
    name, url, events, folder = sys.argv[1:]
    capture, end = CLIENTS[name](url, folder)
    if not int(events):
        end()
        return
    marks = [f"bench-{number:08d}" for number in range(int(events))]
    times: list[int] = []
    began = time.perf_counter()
    for mark in marks:
        started = time.perf_counter_ns()
        capture(mark)
        times.append(time.perf_counter_ns() - started)
    elapsed_s = time.perf_counter() - began
    times.sort()
    shares = {share: times[int(share / 100 * (len(times) - 1))] / 1000 for share in (50, 95, 99)}
    print(json.dumps({"seconds": elapsed_s, **{f"p{share}_us": figure for share, figure in shares.items()}}))
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
