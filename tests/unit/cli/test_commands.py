import asyncio
import io
import signal
import stat
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from app.cli.conversation_export import export_file, write_parts
from app.cli.dev import banner
from app.cli.doctor import endpoint_line
from app.cli.failures import CommandFailed, reported
from app.cli.interrupts import interruptible
from app.cli.options import Place, command
from app.cli.run import parsed_variables
from app.domain.errors import AppError, InvalidInput, StorageUnavailable, UnknownAgent


@dataclass(frozen=True, kw_only=True)
class Thing:
    name: Annotated[str, typer.Argument()]
    tags: Annotated[list[str], typer.Option("--tag")] = field(default_factory=list[str])


def test_fields_of_groups_are_arguments_and_options() -> None:
    given: list[object] = []

    def show(thing: Thing, place: Place) -> int:
        """Show a thing."""
        given.extend((thing, place))
        return 3

    app = typer.Typer()
    command(app, "show")(show)
    runner = CliRunner()
    assert (
        runner.invoke(app, ["x", "--tag", "a", "--tag", "b", "--database", "u"], standalone_mode=False).return_value
        == 3
    )
    assert given == [Thing(name="x", tags=["a", "b"]), Place(database="u", debug=False)]
    assert "Show a thing." in runner.invoke(app, ["--help"]).output
    assert runner.invoke(app, []).exit_code == 2


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (UnknownAgent("x", ("demo",)), "There is no agent 'x'. Known agents: demo.", 1),
        (InvalidInput("Too long."), "Too long.", 2),
        (StorageUnavailable("Away."), "Away. Check DATABASE_URL, or --database.", 1),
        (FileNotFoundError(2, "No such file", "out.md"), "out.md: No such file.", 1),
        (ValueError("secret"), "Unexpected ValueError. Run it again with --debug to see where.", 1),
    ],
)
def test_errors_end_as_one_line(error: Exception, message: str, code: int) -> None:
    with pytest.raises(CommandFailed) as failed, reported(debug=False):
        raise error
    assert (failed.value.message, failed.value.exit_code) == (message, code)
    with pytest.raises(type(error)), reported(debug=True):
        raise error


@pytest.mark.parametrize("error", [BrokenPipeError(32, "gone"), typer.Exit(3), KeyboardInterrupt()])
def test_what_is_no_failure_goes_on(error: BaseException) -> None:
    with pytest.raises(type(error)), reported(debug=False):
        raise error


def test_variables() -> None:
    assert parsed_variables(["a=1", "b=x=y", "a="]) == {"a": "", "b": "x=y"}
    for pair in ("a", "=1"):
        with pytest.raises(typer.BadParameter, match="KEY=VALUE"):
            parsed_variables([pair])


async def test_the_first_signal_stops_the_run_and_the_second_the_program() -> None:
    begun, let_go = asyncio.Event(), asyncio.Event()
    ended = False

    async def stop() -> None:
        nonlocal ended
        begun.set()
        await let_go.wait()
        ended = True

    before = signal.getsignal(signal.SIGINT)
    async with interruptible(stop) as interruption:
        assert interruption.exit_code == 0
        signal.raise_signal(signal.SIGINT)
        await asyncio.wait_for(begun.wait(), 5)
        assert interruption.exit_code == 130
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        asyncio.get_running_loop().call_soon(let_go.set)
        assert not ended
    assert ended  # the block has waited for it
    assert signal.getsignal(signal.SIGINT) is before
    async with interruptible(stop) as interruption:
        signal.raise_signal(signal.SIGTERM)
        await interruption.stopped()
    assert interruption.exit_code == 143


async def test_nobody_has_to_stop_anything() -> None:
    async with interruptible(lambda: pytest.fail("nobody asked")) as interruption:
        waiting = asyncio.create_task(interruption.stopped())
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()
    assert interruption.signal is None


async def parts() -> AsyncIterator[str]:
    yield "one\n"
    yield "\ud83d two\n"  # half an emoji


async def test_an_export_is_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    target.write_text("old")
    with pytest.raises(AppError), export_file(target) as file:
        await write_parts(parts(), file)
        raise AppError("cut")
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    assert target.read_text() == "old"

    with export_file(target) as file:
        assert await write_parts(parts(), file) == 2
    assert target.read_text() == "one\n? two\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


async def test_an_export_goes_to_standard_output_and_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    told = io.StringIO()
    monkeypatch.setattr(sys, "stdout", told)
    with export_file(None) as file:
        await write_parts(parts(), file)
    assert told.getvalue().startswith("one\n")

    with export_file(Path("/dev/null")) as file:
        await write_parts(parts(), file)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_the_banner_holds_a_command_that_works() -> None:
    *facts, curl = banner("http://127.0.0.1:8000", "sqlite:///x.db", "demo", "the demo model")
    assert facts[0] == "durable-agents at http://127.0.0.1:8000"
    assert "\n" not in curl
    assert curl.startswith("curl -N http://127.0.0.1:8000/api/chat/stream ")


@pytest.mark.parametrize(
    ("reachable", "models", "shown"),
    [
        (None, None, "not asked"),
        (True, 3, "reachable, 3 models"),
        (True, None, "reachable"),
        (False, None, "not usable"),
    ],
)
def test_the_endpoint_in_one_line(reachable: bool | None, models: int | None, shown: str) -> None:
    endpoint = {"kind": "endpoint", "base_url": "http://x/v1/", "reachable": reachable, "models": models}
    assert endpoint_line(endpoint) == f"http://x/v1/ ({shown})"
