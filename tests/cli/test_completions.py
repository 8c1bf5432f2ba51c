"""`durable-agents completions` over a file of SQLite."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.bootstrap import upgrade_database
from app.cli.application import main
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
    tomorrow = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    assert json.loads(_run(capsys, "purge", "--before", tomorrow, "--json")[1])["events"] in {0, 1}
