"""Events that were told early and lost, and events without deltas: what readers of other protocols are told of them."""

from dataclasses import replace
from typing import Any

from app.api.narrator import Narrator
from app.api.told_parts import (
    ApprovalAsked,
    CallAnswered,
    CallMade,
    Ended,
    NestedBegan,
    NestedEnded,
    PartBegan,
    PartEnded,
    PartGrew,
    Paused,
    SourceCited,
    StepBegan,
    StepEnded,
)
from app.domain.models.events import (
    ApprovalRequested,
    EventBatch,
    ItemDone,
    ModelCallStarted,
    ReasoningDelta,
    RefusalDelta,
    RunCompleted,
    RunEvent,
    RunStarted,
    RunWaiting,
    SequencedEvent,
    TextDelta,
    ToolOutput,
    ToolStarted,
    UsageReported,
)
from app.domain.models.usage import TokenUsage

RUN = "run_" + "0" * 32
BEGIN = RunStarted(RUN, "conv_1", "helper", 1)
CALL = ModelCallStarted("/m1", "helper", "m", 1)
USED = UsageReported("/m1", "m", TokenUsage(1, 2, 0, 0, 3), "exact")
END = RunCompleted(RUN, "conv_1", "helper", None, TokenUsage(), None, 1)


def message(text: str = "Hi.", item_id: str | None = "msg_1", **part: Any) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, **part}]
    return {"type": "message", "role": "assistant", "content": content} | ({"id": item_id} if item_id else {})


def done(item: dict[str, Any], scope: str = "") -> ItemDone:
    return ItemDone(item, "/m1", "helper", scope)


def batch(*events: RunEvent, first: int = 1, recorded: int | None = None) -> EventBatch:
    numbered = [SequencedEvent(number, event) for number, event in enumerate(events, first)]
    return EventBatch(numbered, first + len(events) - 1 if recorded is None else recorded)


def told(narrator: Narrator, *batches: EventBatch) -> list[Any]:
    return [narration for given in batches for narration in narrator.tell(given)]


def test_a_part_ends_when_its_item_is_on_disk() -> None:
    narrator = Narrator(RUN)
    early = batch(BEGIN, CALL, TextDelta("Hi.", "msg_1"), done(message()), USED, recorded=2)
    began = [StepBegan("/m1"), PartBegan("text", "msg_1", ""), PartGrew("text", "msg_1", "Hi.", "")]
    assert told(narrator, early) == began
    assert told(narrator, EventBatch((), 4)) == [PartEnded("text", "msg_1", "")]
    assert told(narrator, batch(END, first=6)) == [StepEnded("/m1"), Ended(END, ())]
    assert narrator.usage == {"m": TokenUsage(1, 2, 0, 0, 3)}


def test_what_a_lost_attempt_told_is_void_and_comes_again() -> None:
    narrator = Narrator(RUN)
    lost = batch(BEGIN, CALL, TextDelta("Hal", "msg_1"), TextDelta("f", "msg_1"), done(message("Half")), recorded=2)
    again = RunStarted(RUN, "conv_1", "helper", 2)
    goes_on = batch(again, CALL, TextDelta("Hi.", "msg_1"), done(message()), USED, END, first=3)
    assert told(narrator, lost, goes_on) == [
        StepBegan("/m1"),
        PartBegan("text", "msg_1", ""),
        PartGrew("text", "msg_1", "Hal", ""),
        PartGrew("text", "msg_1", "f", ""),
        PartEnded("text", "msg_1", "", void=True),
        StepEnded("/m1"),
        StepBegan("/m1"),
        PartBegan("text", "msg_1-2", ""),
        PartGrew("text", "msg_1-2", "Hi.", ""),
        PartEnded("text", "msg_1-2", ""),
        StepEnded("/m1"),
        Ended(END, ()),
    ]


def test_a_text_that_was_on_disk_survives_its_process() -> None:
    narrator = Narrator(RUN)
    first = batch(BEGIN, CALL, TextDelta("Hi.", "msg_1"), done(message()), USED)
    again = batch(RunStarted(RUN, "conv_1", "helper", 2), END, first=6)
    assert [one for one in told(narrator, first, again) if isinstance(one, PartEnded)] == [
        PartEnded("text", "msg_1", "", void=False)
    ]


def test_a_call_that_is_started_twice_is_told_once() -> None:
    narrator = Narrator(RUN)
    started = ToolStarted("c1", "add", "{}", "helper")
    output = ToolOutput("c1", "add", "3", "helper", 1)
    again = RunStarted(RUN, "conv_1", "helper", 2)
    assert told(narrator, batch(started, output, recorded=1), batch(again, started, output, first=2)) == [
        CallMade("c1", "add", "{}", "server", ""),
        CallAnswered("c1", "3", ""),
    ]


def test_without_deltas_items_are_told_whole() -> None:
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]}
    given = batch(CALL, done(reasoning), done(message(item_id=None)), done({"type": "reasoning", "summary": []}))
    assert told(Narrator(RUN), given) == [
        StepBegan("/m1"),
        PartBegan("reasoning", "rs_1", ""),
        PartGrew("reasoning", "rs_1", "Hm.", ""),
        PartEnded("reasoning", "rs_1", ""),
        PartBegan("text", "part", ""),
        PartGrew("text", "part", "Hi.", ""),
        PartEnded("text", "part", ""),
    ]


def test_an_item_without_an_id_ends_the_part_of_its_kind() -> None:
    deltas = (ReasoningDelta("Hm.", "r"), RefusalDelta("No.", "t"))
    refusal = {"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}
    ended = told(Narrator(RUN), batch(CALL, *deltas, done(refusal), USED))[-2:]
    assert ended == [PartEnded("text", "t", ""), PartEnded("reasoning", "r", "")]


def test_hosted_calls_and_sources_are_told() -> None:
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"query": "x"}}
    cited = [{"type": "url_citation", "url": "https://example.com", "title": "Example"}, {"type": "file_citation"}]
    given = batch(done(search), done(message(annotations=cited)))
    assert [one for one in told(Narrator(RUN), given) if not isinstance(one, PartBegan | PartGrew | PartEnded)] == [
        CallMade("ws_1", "web_search", "", "provider", ""),
        CallAnswered("ws_1", search, ""),
        SourceCited("https://example.com", "Example"),
    ]


def test_only_calls_of_the_clients_tools_are_handed_out() -> None:
    narrator = Narrator(RUN, client_tools=frozenset({"locate"}))
    item = {"type": "function_call", "call_id": "c1", "name": "locate", "arguments": "{}"}
    given = batch(done(item), done(item | {"call_id": "c2", "name": "add"}), done(item, "/t:x"), END)
    assert told(narrator, given) == [CallMade("c1", "locate", "{}", "client", ""), Ended(END, ("c1",))]


def test_a_nested_agent_that_was_cut_ends_with_the_run() -> None:
    nested = ModelCallStarted("/t:c1/m1", "inner", "m", 1, "/t:c1")
    given = batch(ToolStarted("c1", "ask", "{}", "helper"), nested, TextDelta("x", "m", "/t:c1"), END)
    assert told(Narrator(RUN), given) == [
        CallMade("c1", "ask", "{}", "server", ""),
        NestedBegan("/t:c1", "inner", "c1"),
        PartBegan("text", "m", "/t:c1"),
        PartGrew("text", "m", "x", "/t:c1"),
        PartEnded("text", "m", "/t:c1"),
        NestedEnded("/t:c1"),
        Ended(END, ()),
    ]


def test_a_run_pauses_only_where_its_events_end() -> None:
    asked = ApprovalRequested("c1", "pay", "{}", "helper")
    waiting = RunWaiting(RUN, "conv_1", 1)
    made = CallMade("c1", "pay", "{}", "server", "")
    question = ApprovalAsked(f"{RUN}.1./t:c1", "c1", "pay", "")
    assert told(Narrator(RUN), batch(asked, waiting)) == [made, question, Paused()]
    goes_on = batch(asked, waiting, RunStarted(RUN, "conv_1", "helper", 2), END)
    assert told(Narrator(RUN), goes_on) == [made, question, Ended(END, ())]


def test_an_answer_that_no_model_has_said_is_told() -> None:
    end = replace(END, output={"sum": 3})
    said = [
        one
        for one in told(Narrator(RUN), batch(CALL, TextDelta("x", "m", "/t:c1"), end))
        if not isinstance(one, StepBegan)
    ]
    assert said == [
        PartBegan("text", "m", "/t:c1"),
        PartGrew("text", "m", "x", "/t:c1"),
        PartEnded("text", "m", "/t:c1"),
        PartBegan("text", "answer", ""),
        PartGrew("text", "answer", '{"sum":3}', ""),
        PartEnded("text", "answer", ""),
        StepEnded("/m1"),
        Ended(end, ()),
    ]
    spoken = told(Narrator(RUN), batch(CALL, done(message()), replace(END, output="Hi.")))
    assert sum(isinstance(one, PartGrew) for one in spoken) == 1
