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


def test_a_model_call_that_begins_again_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    again = ModelCallStarted("/m1", "demo", "gpt", 2)
    shown(again, TextDelta("Hel", "a"), again, TextDelta("Hello", "b"))
    assert capsys.readouterr().err == "The text above was cut off; the answer begins again.\n"
