"""Processes that capture are killed at random: whatever `capture` returned for is there, once."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.infrastructure.completions.segments import segment_sizes
from app.infrastructure.completions.spool_reader import SpoolReader

ROOT = Path(__file__).parents[2]
KILLS = 5
PROGRAM = """
import asyncio, os, sys
from app.capture import SessionCompletionRuntime
from app.capture_settings import CaptureSettings

mode, folder = sys.argv[1:]
runtime = SessionCompletionRuntime(settings=CaptureSettings(mode=mode, spool_dir=folder))
runtime._pipeline.writer._segment_bytes = 8192  # so that kills hit the change of files, too

def told(ids):
    os.write(1, "".join(f"{one}\\n" for one in ids).encode())

async def fsync():
    while True:
        captured = [runtime.capture({"session_id": "s"}) for _ in range(5)]
        done = [await one for one in captured]
        writer = runtime._pipeline.writer
        with writer._free():
            sizes = f"synced {writer.path.name} {writer.synced_bytes}"
        # One write: a kill never parts the ids from the size that covers them.
        told([*(one.event_id for one in done if one.settled), sizes])

while mode == "spool":
    told([runtime.capture({"session_id": "s"}).event_id for _ in range(3)])
    told([one.event_id for one in runtime.capture_many([{"session_id": "s"}] * 4).events])
asyncio.run(fsync())
"""


def killed(mode: str, folder: Path, lines: int) -> list[str]:
    """Run a process until it has told some lines, kill it, and return all that it told whole."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, mode, str(folder)],
        stdout=subprocess.PIPE,
        cwd=folder.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    told = [process.stdout.readline() for _ in range(lines)]
    process.send_signal(signal.SIGKILL)
    told += process.stdout.readlines()
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    return [line.decode().strip() for line in told if line.endswith(b"\n")]


def stored(folder: Path) -> list[str]:
    reader, found = SpoolReader(folder), list[str]()
    with reader.locked() as mine:
        assert mine
        while batch := reader.next_batch(500, 1 << 20):
            found += [json.loads(body)["event_id"] for body in batch]
            reader.advance()
        reader.sweep()
    assert reader.stats().dropped == 0
    reader.close()
    return found


@pytest.mark.crash
def test_what_was_captured_survives_a_kill(tmp_path: Path) -> None:
    folder, told = tmp_path / "spool", list[str]()
    for _ in range(KILLS):
        told += killed("spool", folder, random.randint(1, 400))
    found = stored(folder)
    assert len(found) == len(set(found))
    assert set(told) <= set(found)
    # At most what was captured and not yet told when the kill came.
    assert len(found) - len(told) <= KILLS * 7
    assert segment_sizes(folder) == []


@pytest.mark.crash
def test_what_was_awaited_survives_the_loss_of_unsynced_pages(tmp_path: Path) -> None:
    folder, told, synced = tmp_path / "spool", list[str](), dict[str, int]()
    for _ in range(KILLS // 2):
        for line in killed("fsync", folder, random.randint(6, 300)):
            word, *rest = line.split()
            if rest:
                synced[rest[0]] = max(synced.get(rest[0], 0), int(rest[1]))
            else:
                told.append(word)
    lost = 0
    by_writer: dict[str, list[str]] = {}
    for name, _ in segment_sizes(folder):
        by_writer.setdefault(name.partition("-")[0], []).append(name)
    for names in by_writer.values():
        # Files that were left are synced by then; of the last one, only what the writer knew to be.
        known = [name for name in names if name in synced]
        assert known
        for name in names[names.index(known[-1]) :]:
            size = (folder / name).stat().st_size
            keep = synced.get(name, 0)
            lost += size - keep
            os.truncate(folder / name, keep)
    found = set(stored(folder))
    missing = [one for one in told if one not in found]
    assert len(told) > 20
    assert missing == [], f"{len(missing)} of {len(told)} lost, {lost} bytes cut off"


@pytest.mark.crash
def test_a_write_that_was_torn_costs_that_event_alone(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    told = killed("spool", folder, 50)
    name, size = segment_sizes(folder)[-1]
    os.truncate(folder / name, size - 3)
    found = stored(folder)
    assert len(set(told) - set(found)) <= 1
    reader = SpoolReader(folder)
    assert reader.stats().torn == 1
    reader.close()


@pytest.mark.crash
@pytest.mark.parametrize("mode", ["spool", "fsync"])
def test_a_process_that_is_killed_at_once_leaves_a_readable_folder(mode: str, tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    told = [line for line in killed(mode, folder, 1) if " " not in line]
    assert set(told) <= set(stored(folder))
