import pytest

from app.cli.answers import AnswerWriter
from app.domain.models.events import ModelCallStarted, RefusalDelta, RunEvent, TextDelta, ToolStarted


def shown(*events: RunEvent) -> AnswerWriter:
    writer = AnswerWriter()
    for event in events:
        writer.show(event)
    writer.end_line()
    return writer


def test_messages_stand_apart_and_nested_agents_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    writer = shown(
        TextDelta("Let me ", "a"),
        TextDelta("look.", "a"),
        ToolStarted("c", "find", "{}", "demo"),
        TextDelta("nested", "n", scope="/t:c"),
        TextDelta("Found it.", "b"),
    )
    assert writer.wrote
    assert capsys.readouterr() == ("Let me look.\n\nFound it.\n", "→ find {}\n")


def test_a_refusal_is_an_answer_and_silence_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(RefusalDelta("No.\n", "a")).wrote
    assert not shown(TextDelta("", "a")).wrote
    assert capsys.readouterr().out == "No.\n"


def begins(step: str, attempt: int, scope: str = "") -> ModelCallStarted:
    return ModelCallStarted(step, "demo", "gpt", attempt, scope)


CUT = "The text above was cut off; the answer begins again.\n"


@pytest.mark.parametrize(
    ("events", "told"),
    [
        # Nothing was written of it.
        ([begins("/m1", 1), begins("/m1", 2), TextDelta("Hello", "b")], ""),
        ([begins("/m1", 1), TextDelta("Hel", "a"), begins("/m1", 2), TextDelta("Hello", "b")], CUT),
        ([begins("/m1", 1), TextDelta("Hel", "a"), begins("/m1", 2), begins("/m1", 3)], CUT),
        # A later attempt goes on with another call: what was written stays.
        ([begins("/m1", 1), TextDelta("Look:", "a"), begins("/m2", 2), TextDelta("Found", "b")], ""),
        ([begins("/m1", 1), TextDelta("Look:", "a"), begins("/m2", 2), TextDelta("F", "b"), begins("/m2", 3)], CUT),
        # A nested agent has calls of its own.
        ([begins("/m1", 1), TextDelta("Look:", "a"), begins("/t:c/m1", 1, "/t:c"), begins("/t:c/m1", 2, "/t:c")], ""),
        ([begins("/m1", 1), begins("/t:c/m1", 1, "/t:c"), TextDelta("Look:", "a"), begins("/m1", 2)], CUT),
    ],
)
def test_only_text_that_is_void_is_called_so(
    events: list[RunEvent], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown(*events)
    assert capsys.readouterr().err == told
