"""`durable-agents completions` over a file of SQLite."""

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.bootstrap import upgrade_database
from app.cli.application import main
from app.infrastructure.completions.spool import SpoolWriter
from app.infrastructure.persistence.engine import build_engine
from tests.api.serving import settings_of
from tests.contract.completions.receivers import Post, Receiver, event


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        main(["completions", *arguments])
    printed = capsys.readouterr()
    return int(left.value.code or 0), printed.out or printed.err


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path}/cli.db"
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.chdir(tmp_path)
    asyncio.run(upgrade_database(settings_of(url)))
    one, two = event(1), event(2)

    async def fill() -> None:
        engine = build_engine(url)
        post = Post(engine)
        await post.write(one, two)
        worker = await post.worker(Receiver())
        await post.deliver(worker)
        await worker.release()
        await engine.dispose()

    asyncio.run(fill())
    capsys.readouterr()  # what the worker logged in this process
    code, listed = _run(capsys, "ls", "--json", "--organization", "acme")
    assert code == 0, listed
    assert [found["id"] for found in json.loads(listed)["data"]] == [two.id, one.id]
    assert one.id in _run(capsys, "ls")[1]
    shown = json.loads(_run(capsys, "show", one.id, "--json")[1])
    assert shown["deliveries"][0]["state"] == "delivered"
    assert _run(capsys, "show", "unknown")[0] == 1
    assert json.loads(_run(capsys, "redeliver", "billing", one.id, "--json")[1]) == {"redelivered": 1}
    assert _run(capsys, "redeliver", "billing")[0] != 0
    (stats,) = json.loads(_run(capsys, "stats", "--json")[1])["data"]
    assert (stats["pending"], stats["delivered"]) == (1, 1)
    assert "billing" in _run(capsys, "stats")[1]
    assert _run(capsys, "tail", "--for", "0")[0] == 0
    assert _run(capsys, "forget", "nobody")[0] == 2
    assert _run(capsys, "forget", "billing") == (0, "billing is forgotten\n")
    assert json.loads(_run(capsys, "stats", "--json")[1])["data"] == []
    tomorrow = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    assert json.loads(_run(capsys, "purge", "--before", tomorrow, "--json")[1])["events"] == 2


def test_a_spool_is_moved_into_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url, folder = f"sqlite:///{tmp_path}/cli.db", tmp_path / "spool"
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.chdir(tmp_path)
    asyncio.run(upgrade_database(settings_of(url)))
    assert _run(capsys, "relay", str(folder), "--once") == (1, f"Error: There is no folder {folder}.\n")
    assert not folder.exists()
    writer = SpoolWriter(folder)
    assert writer.append_many([b'{"session_id": "s", "event_id": "e-1"}', b"{"])
    writer.close()
    assert json.loads(_run(capsys, "relay", str(folder), "--once", "--json")[1]) == {"events": 2}
    assert _run(capsys, "relay", str(folder), "--once") == (0, "0 moved\n")
    (found,) = json.loads(_run(capsys, "ls", "--json")[1])["data"]
    assert (found["id"], found["organization_id"], found["source"]) == ("e-1", "default", "spool")


def test_a_relay_works_until_it_is_interrupted(tmp_path: Path) -> None:
    url, folder = f"sqlite:///{tmp_path}/cli.db", tmp_path / "spool"
    asyncio.run(upgrade_database(settings_of(url)))
    writer = SpoolWriter(folder)
    writer.append(b'{"session_id": "s", "event_id": "e-1"}')
    started = [sys.executable, "-m", "app", "completions", "relay", str(folder), "--database", url]
    with subprocess.Popen(started, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as relay:
        try:
            deadline = time.monotonic() + 30
            while not _ids(tmp_path / "cli.db") and time.monotonic() < deadline and relay.poll() is None:
                time.sleep(0.05)
            relay.send_signal(signal.SIGTERM)
            printed = relay.communicate(timeout=30)[0]
        finally:
            relay.kill()
    assert (relay.returncode, printed) == (143, b"")
    assert _ids(tmp_path / "cli.db") == ["e-1"]
    writer.close()


def _ids(file: Path) -> list[str]:
    connection = sqlite3.connect(file)
    try:
        return [row[0] for row in connection.execute("SELECT id FROM completion_events")]
    finally:
        connection.close()
