from dataclasses import replace

import pytest

from app.cli.answers import FollowedRun
from app.cli.interrupts import Interruption
from app.cli.options import Owner, Place
from app.cli.run_ends import Commands, Printing, exit_code_of, print_end
from app.domain.models.approvals import ApprovalRequest
from app.domain.models.runs import RunStatus
from tests.unit.cli.test_run_reports import ended

COMMANDS = Commands(Owner(), Place())


@pytest.mark.parametrize(
    ("status", "signal", "code"),
    [
        (RunStatus.COMPLETED, None, 0),
        (RunStatus.COMPLETED, 2, 0),  # it was faster
        (RunStatus.FAILED, None, 1),
        (RunStatus.CANCELLED, None, 1),
        (RunStatus.CANCELLED, 2, 130),
        (RunStatus.CANCELLED, 15, 143),
        (RunStatus.WAITING, None, 3),
        (RunStatus.WAITING, 2, 130),
    ],
)
async def test_exit_codes(status: RunStatus, signal: int | None, code: int) -> None:
    interruption = Interruption()
    interruption.signal = signal
    assert exit_code_of(FollowedRun(replace(ended(), status=status), interruption, wrote=False)) == code


@pytest.mark.parametrize(
    ("owner", "place", "line"),
    [
        (Owner(), Place(), "durable-agents runs show run_1"),
        (
            Owner(organization="two words", user="ada"),
            Place(),
            "durable-agents runs show run_1 --organization 'two words' --user ada",
        ),
        (Owner(), Place(database="sqlite:///x.db"), "durable-agents runs show run_1 --database sqlite:///x.db"),
        (Owner(), Place(database="postgresql://me:secret@db/x"), "durable-agents runs show run_1 --database URL"),
    ],
)
def test_commands_work_as_they_are_printed(owner: Owner, place: Place, line: str) -> None:
    assert Commands(owner, place).line("runs", "show", "run_1") == line


@pytest.mark.parametrize(("calls", "named"), [(["c1"], "c1"), (["c1", "c2"], "--all")])
async def test_a_run_that_waits_says_how_to_go_on(
    calls: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = tuple(ApprovalRequest(f"/t:{call}", call, "delete", "{}", "demo") for call in calls)
    result = replace(ended(), status=RunStatus.WAITING, error=None, approvals=requests)
    assert print_end(FollowedRun(result, Interruption(), wrote=False), Printing(), COMMANDS) == 3
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "Conversation conv_1",
        "run_1 waits for approval:",
        *["? demo wants to call delete {}"] * len(calls),
        f"Allow it with:  durable-agents approvals approve run_1 {named}",
        f"Refuse it with: durable-agents approvals reject run_1 {named}",
    ]
