import asyncio
import signal

import pytest

from app.cli.interrupts import Interruption, interruptible
from app.cli.questions import QUESTION, Approver
from app.domain.models.approvals import ApprovalRequest, Decision


class Said:
    """Lines that a person types; then nothing more comes, or the input ends."""

    def __init__(self, *lines: str, end: bool = True) -> None:
        self._lines = list(lines)
        self._end = end
        self.silent = asyncio.Event()

    async def line(self, prompt: str) -> str | None:
        if self._lines:
            return self._lines.pop(0)
        if not self._end:
            self.silent.set()
            await asyncio.Event().wait()
        return None


def asked(tool: str, call_id: str) -> ApprovalRequest:
    return ApprovalRequest(f"/t:{call_id}", call_id, tool, "{}", "demo")


async def nothing() -> None:
    pass


@pytest.mark.parametrize(
    ("line", "decision"),
    [
        ("y", Decision("/t:a", approve=True)),
        ("  YES ", Decision("/t:a", approve=True)),
        ("n", Decision("/t:a", approve=False)),
        ("no too  risky ", Decision("/t:a", approve=False, message="too  risky")),
        ("a", Decision("/t:a", approve=True, always=True)),
    ],
)
async def test_an_answer(line: str, decision: Decision, capsys: pytest.CaptureFixture[str]) -> None:
    # The step is given, as a call id may occur twice.
    assert await Approver(Said(line)).decisions([asked("find", "a")], Interruption()) == [decision]
    assert capsys.readouterr() == ("", f"? demo wants to call find {{}}\n{QUESTION}")


async def test_what_is_no_answer_is_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    decided = await Approver(Said("", "maybe", "n")).decisions([asked("find", "a")], Interruption())
    assert decided == [Decision("/t:a", approve=False)]
    assert capsys.readouterr().err.count(QUESTION) == 3


async def test_always_answers_for_the_tool() -> None:
    requests = [asked("find", "a"), asked("delete", "b"), asked("find", "c")]
    decided = await Approver(Said("a", "n")).decisions(requests, Interruption())
    assert decided == [Decision("/t:a", approve=True, always=True), Decision("/t:b", approve=False)]


async def test_the_end_of_the_input_leaves_all_open() -> None:
    assert await Approver(Said("y")).decisions([asked("find", "a"), asked("delete", "b")], Interruption()) is None


async def test_ctrl_c_ends_the_question() -> None:
    said = Said("y", end=False)
    async with interruptible(nothing) as interruption:
        deciding = asyncio.create_task(Approver(said).decisions([asked("a", "a"), asked("b", "b")], interruption))
        await said.silent.wait()
        signal.raise_signal(signal.SIGINT)
        assert await asyncio.wait_for(deciding, 5) is None
