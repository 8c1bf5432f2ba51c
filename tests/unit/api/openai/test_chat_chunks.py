"""What a chat client is told is a function of its runs' events, plain and streamed, whatever has happened to them."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from app.api.openai.chat_answers import ChatAnswer, StopCutter
from app.api.openai.chat_chunks import ChatChunks, ChoiceBatch
from app.api.openai.chat_replies import completion
from app.domain.models.events import (
    HandoffOccurred,
    ItemDone,
    ModelCallStarted,
    ReasoningDelta,
    RefusalDelta,
    RunCancelled,
    RunCompleted,
    RunEvent,
    RunFailed,
    RunStarted,
    RunWaiting,
    SequencedEvent,
    TextDelta,
    ToolOutput,
    ToolStarted,
    UsageReported,
)
from app.domain.models.usage import TokenUsage

HEX = "0" * 31 + "7"
RUN = f"run_{HEX}"
TOKENS = TokenUsage(requests=1, input_tokens=10, cached_tokens=2, output_tokens=5, reasoning_tokens=1)
BEGIN = RunStarted(RUN, "conv_1", "helper", 1)


def call(step: int = 1, attempt: int = 1, scope: str = "") -> ModelCallStarted:
    return ModelCallStarted(f"/m{step}", "helper", "gpt", attempt, scope)


def message(text: str, item_id: str = "a", step: int = 1, **fields: Any) -> ItemDone:
    content = [{"type": "output_text", "text": text, "annotations": [], **fields}]
    return ItemDone({"type": "message", "id": item_id, "role": "assistant", "content": content}, f"/m{step}", "helper")


def asked(name: str, call_id: str = "c1", step: int = 1) -> ItemDone:
    item = {"type": "function_call", "id": "fc", "call_id": call_id, "name": name, "arguments": '{"a":1}'}
    return ItemDone(item, f"/m{step}", "helper")


def used(step: int = 1) -> UsageReported:
    return UsageReported(f"/m{step}", "gpt", TOKENS, "exact")


def completed(output: Any) -> RunCompleted:
    return RunCompleted(RUN, "conv_1", "helper", output, TOKENS, None, 5)


class Told:
    """One run of events, told chunk by chunk and as a whole."""

    def __init__(
        self, *events: RunEvent, stops: Sequence[str] = (), structured: bool = False, usage: bool = False
    ) -> None:
        self.answer = ChatAnswer(frozenset({"weather"}), structured=structured)
        chunks = ChatChunks(RUN, "helper", [self.answer], stops, include_usage=usage)
        self.whole = ChatAnswer(frozenset({"weather"}), structured=structured)
        self._stops = stops
        told: list[bytes] = []
        for number, event in enumerate(events, 1):
            self.whole.feed(event)
            told.append(chunks.of(ChoiceBatch([SequencedEvent(number, event)], number)))
        self.data = [line.removeprefix("data: ") for line in b"".join(told).decode().split("\n\n") if line]
        self.chunks = [ChatCompletionChunk.model_validate_json(line) for line in self.data if line.startswith('{"id"')]

    @property
    def deltas(self) -> list[dict[str, Any]]:
        return [chunk.choices[0].delta.model_dump(exclude_none=True) for chunk in self.chunks if chunk.choices]

    @property
    def text(self) -> str:
        return "".join(delta.get("content", "") for delta in self.deltas)

    @property
    def completion(self) -> ChatCompletion:
        return ChatCompletion.model_validate(completion(RUN, "helper", [self.whole], self._stops))

    @property
    def error(self) -> dict[str, Any]:
        """The error that it ends with."""
        assert "[DONE]" not in self.data
        error: dict[str, Any] = json.loads(self.data[-1])["error"]
        return error

    def same(self, text: str) -> bool:
        """Whether it says a text, told in either way."""
        finish = self.chunks[-1].choices[0].finish_reason
        assert self.data[-1] == "[DONE]"
        assert self.completion.choices[0].finish_reason == finish
        return self.text == text and (self.completion.choices[0].message.content or "") == text


def test_a_text_as_it_comes() -> None:
    told = Told(
        BEGIN, call(), TextDelta("Hel", "a"), TextDelta("lo.", "a"), message("Hello."), used(), completed("Hello.")
    )
    assert told.same("Hello.")
    assert told.deltas == [{"role": "assistant", "content": ""}, {"content": "Hel"}, {"content": "lo."}, {}]
    assert {chunk.id for chunk in told.chunks} == {f"chatcmpl-{HEX}"}
    assert [chunk.choices[0].finish_reason for chunk in told.chunks] == [None, None, None, "stop"]
    assert all("usage" not in json.loads(line) for line in told.data[:-1])


def test_usage_when_it_is_asked_for() -> None:
    told = Told(BEGIN, call(), TextDelta("Hi", "a"), used(), completed("Hi"), usage=True)
    *others, last = [json.loads(line) for line in told.data[:-1]]
    assert all(chunk["usage"] is None for chunk in others)
    assert last["choices"] == []
    assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"], last["usage"]["total_tokens"]) == (
        10,
        5,
        15,
    )
    assert last["usage"] == json.loads(told.completion.model_dump_json(exclude_unset=True))["usage"]


def test_text_that_no_delta_has_told() -> None:
    assert Told(BEGIN, call(), message("Hello."), used(), completed("Hello.")).same("Hello.")
    assert Told(BEGIN, call(), TextDelta("Hel", "a"), message("Hello."), used(), completed("Hello.")).same("Hello.")


def test_messages_of_one_run_are_one_text() -> None:
    told = Told(
        BEGIN,
        call(),
        TextDelta("Let me see.", "a"),
        message("Let me see."),
        asked("add"),
        used(),
        ToolStarted("c1", "add", "{}", "helper"),
        TextDelta("inside", "z", "/t:c1"),
        ItemDone(message("inside").item, "/t:c1/m1", "nested", "/t:c1"),
        ToolOutput("c1", "add", "3", "helper", 1),
        call(2),
        ReasoningDelta("hm", "r"),
        TextDelta("Three.", "b"),
        message("Three.", "b", 2),
        message("Really.", "c", 2),
        used(2),
        completed("Three.Really."),
    )
    assert told.same("Let me see.\n\nThree.\n\nReally.")


def test_only_the_last_message_has_the_form() -> None:
    told = Told(
        BEGIN,
        call(),
        TextDelta("I add.", "a"),
        message("I add."),
        asked("add"),
        used(),
        call(2),
        TextDelta('{"total"', "b"),
        TextDelta(": 3}", "b"),
        message('{"total": 3}', "b", 2),
        used(2),
        completed({"total": 3}),
        structured=True,
    )
    assert told.same('{"total": 3}')


def test_what_was_said_before_a_handoff_has_not_the_form() -> None:
    told = Told(
        BEGIN,
        call(),
        message("I hand over."),
        HandoffOccurred("helper", "other"),
        used(),
        call(2),
        message("{}", "b", 2),
        used(2),
        completed({}),
        structured=True,
    )
    assert told.same("{}")


def test_calls_that_the_client_executes() -> None:
    told = Told(
        BEGIN,
        call(),
        TextDelta("I ask.", "a"),
        message("I ask."),
        asked("weather", "c1"),
        asked("add", "c2"),
        asked("weather", "c3"),
        used(),
        completed("I ask."),
    )
    assert told.same("I ask.")
    assert told.chunks[-1].choices[0].finish_reason == "tool_calls"
    calls = [one for delta in told.deltas for one in delta.get("tool_calls", ())]
    assert calls == [
        {"index": 0, "id": "c1", "type": "function", "function": {"name": "weather", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"a":1}'}},
        {"index": 1, "id": "c3", "type": "function", "function": {"name": "weather", "arguments": ""}},
        {"index": 1, "function": {"arguments": '{"a":1}'}},
    ]
    whole = told.completion.choices[0].message.tool_calls
    assert whole is not None
    assert [one.id for one in whole] == ["c1", "c3"]


def test_a_refusal() -> None:
    parts = [{"type": "refusal", "refusal": "I will not."}]
    done = ItemDone({"type": "message", "id": "a", "role": "assistant", "content": parts}, "/m1", "helper")
    streamed = Told(
        BEGIN, call(), RefusalDelta("I will ", "a"), RefusalDelta("not.", "a"), done, used(), completed("I will not.")
    )
    plain = Told(BEGIN, call(), done, used(), completed("I will not."))
    for told in (streamed, plain):
        assert "".join(delta.get("refusal", "") for delta in told.deltas) == "I will not."
        assert told.text == ""
        answer = told.completion.choices[0].message
        assert (answer.content, answer.refusal) == (None, "I will not.")


def test_a_tools_output_can_be_the_answer() -> None:
    for output, text in [("3", "3"), ({"a": 1}, '{"a":1}')]:
        told = Told(BEGIN, call(), message("I add."), asked("add"), used(), completed(output))
        assert told.same(f"I add.\n\n{text}")
    assert Told(completed("The log is gone.")).same("The log is gone.")


def test_sources_of_a_text() -> None:
    source = {"type": "url_citation", "start_index": 0, "end_index": 5, "title": "T", "url": "https://example.org"}
    events = [
        BEGIN,
        call(),
        message("First.", "a"),
        message("Hello.", "b", annotations=[source, {"type": "file_citation"}]),
        used(),
        completed("x"),
    ]
    annotations = Told(*events).completion.choices[0].message.annotations
    assert annotations is not None
    (shown,) = annotations
    assert (shown.url_citation.start_index, shown.url_citation.end_index) == (8, 13)
    assert Told(*events, stops=["lo."]).completion.choices[0].message.annotations == []


def test_an_attempt_that_was_lost_before_anything_was_sent() -> None:
    again = RunStarted(RUN, "conv_1", "helper", 2)
    told = Told(BEGIN, call(), again, call(attempt=2), TextDelta("Hi.", "b"), used(), completed("Hi."))
    assert told.same("Hi.")


def test_an_attempt_that_was_lost_after_something_was_sent() -> None:
    events = [
        BEGIN,
        call(),
        TextDelta("Hel", "a"),
        RunStarted(RUN, "conv_1", "helper", 2),
        call(attempt=2),
        TextDelta("Good day.", "b"),
        used(),
        completed("Good day."),
    ]
    told = Told(*events)
    assert told.error["code"] == "stream_interrupted"
    assert told.text == "Hel"
    assert told.completion.choices[0].message.content == "Good day."


def test_steps_that_were_recorded_are_not_said_again() -> None:
    told = Told(
        BEGIN,
        call(),
        TextDelta("One.", "a"),
        message("One."),
        asked("add"),
        used(),
        call(2),
        RunStarted(RUN, "conv_1", "helper", 2),
        call(2, attempt=2),
        TextDelta("Two.", "b"),
        used(2),
        completed("Two."),
    )
    assert told.same("One.\n\nTwo.")


def test_calls_of_an_attempt_that_was_lost() -> None:
    events = [BEGIN, call(), asked("weather"), RunStarted(RUN, "conv_1", "helper", 2), call(attempt=2)]
    assert Told(*events).error["code"] == "stream_interrupted"


@pytest.mark.parametrize(
    ("event", "code", "kind"),
    [
        (RunFailed(RUN, "conv_1", "agent_failed", "It broke.", TOKENS, None, 1, {}), "agent_failed", "server_error"),
        (RunCancelled(RUN, "conv_1", "timeout", "Too long.", TOKENS, None, 1), "run_timeout", "server_error"),
        (RunCancelled(RUN, "conv_1", "user", "Stopped.", TOKENS, None, 1), "run_cancelled", "invalid_request_error"),
        (RunWaiting(RUN, "conv_1", 2), "approval_required", "invalid_request_error"),
    ],
)
def test_bad_ends(event: RunEvent, code: str, kind: str) -> None:
    told = Told(BEGIN, call(), TextDelta("Hel", "a"), event, TextDelta("lo", "a"))
    assert (told.error["code"], told.error["type"]) == (code, kind)
    assert told.text == "Hel"


@pytest.mark.parametrize(("reason", "finish"), [("max_output_tokens", "length"), ("content_filter", "content_filter")])
def test_an_answer_that_was_cut(reason: str, finish: str) -> None:
    details = {"incomplete_reason": reason}
    failed = RunFailed(RUN, "conv_1", "provider_rejected", "Cut.", TOKENS, None, 1, details)
    told = Told(BEGIN, call(), TextDelta("Hel", "a"), failed, structured=True)
    assert told.same("Hel")
    assert told.chunks[-1].choices[0].finish_reason == finish


def test_a_run_that_has_waited_goes_on() -> None:
    answer = ChatAnswer(frozenset(), structured=False)
    for event in (BEGIN, RunWaiting(RUN, "conv_1", 1), RunStarted(RUN, "conv_1", "helper", 2)):
        answer.feed(event)
    assert answer.end is None


def test_several_choices_end_together() -> None:
    answers = [ChatAnswer(frozenset(), structured=False) for _ in range(2)]
    chunks = ChatChunks(RUN, "helper", answers, (), include_usage=True)
    told = b""
    for choice, event in [(1, BEGIN), (0, BEGIN), (1, completed("B")), (0, completed("A"))]:
        assert not told.endswith(b"[DONE]\n\n")
        told += chunks.of(ChoiceBatch([SequencedEvent(1, event)], 1, choice))
    assert told.endswith(b"[DONE]\n\n")
    assert chunks.is_over
    data = [json.loads(line.removeprefix("data: ")) for line in told.decode().split("\n\n")[:-2]]
    assert [chunk["choices"][0]["index"] for chunk in data[:-1]] == [1, 0, 1, 1, 0, 0]
    assert data[-1]["usage"]["total_tokens"] == 30
    assert chunks.of(ChoiceBatch([SequencedEvent(2, BEGIN)], 1, 0)) == b""


@pytest.mark.parametrize(
    ("stops", "text", "said"),
    [
        (["two"], "one two three", "one "),
        (["xx", "two th"], "one two three", "one "),
        (["aab"], "aaab", "a"),
        (["three!"], "one two three", "one two three"),
        (["\n\n"], "one\n\ntwo", "one"),
        (["o"], "one", ""),
        ([], "one", "one"),
    ],
)
def test_stops_in_pieces(stops: list[str], text: str, said: str) -> None:
    deltas = [TextDelta(character, "a") for character in text]
    told = Told(BEGIN, call(), *deltas, message(text), used(), completed(text), stops=stops)
    assert told.same(said)
    assert StopCutter(stops).passed(text, last=True) == said
