"""Small modules: JSON text, deltas, the recording, output types, run configuration."""

import dataclasses
from typing import Any

import pytest
from agents import ModelBehaviorError, ModelSettings
from openai.types.responses import (
    ResponseCreatedEvent,
    ResponseFunctionCallArgumentsDeltaEvent,
    ResponseOutputItemAddedEvent,
    ResponseOutputMessage,
    ResponseReasoningItem,
)
from openai.types.responses.response_text_delta_event import ResponseTextDeltaEvent
from pydantic import BaseModel

from app.domain.errors import InvalidInput
from app.domain.models.events import ReasoningDelta, TextDelta, ToolArgumentsDelta
from app.infrastructure.providers.openai import wire_json
from app.infrastructure.providers.openai.output_types import JsonSchemaOutput, is_schema, json_output, text_output
from app.infrastructure.providers.openai.recording import RunRecording, never_failing, short, traceback_of
from app.infrastructure.providers.openai.run_config import model_settings
from app.infrastructure.providers.openai.streaming import delta_of
from tests.recordings import MemoryLog, recording_of


def recording(history: Any = ()) -> RunRecording:
    return recording_of(MemoryLog(), history=history)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, None, "é"]}, '{"a":[1,null,"é"]}'),
        ("odd \ud83d", '"odd \\ud83d"'),
        ({(1, 2): 3}, '{"(1, 2)":3}'),
    ],
)
def test_json_of_anything(value: Any, text: str) -> None:
    assert wire_json.encode(value) == text


def test_json_of_what_is_no_json() -> None:
    circle: list[Any] = []
    circle.append(circle)
    assert "list" in wire_json.encode(circle)
    assert "object at" in wire_json.encode({"a": object()})


def test_deltas() -> None:
    text = ResponseTextDeltaEvent(
        content_index=0,
        delta="a",
        item_id="msg_1",
        logprobs=[],
        output_index=0,
        sequence_number=1,
        type="response.output_text.delta",
    )
    arguments = ResponseFunctionCallArgumentsDeltaEvent(
        delta="{",
        item_id="fc_1",
        output_index=0,
        sequence_number=1,
        type="response.function_call_arguments.delta",
    )
    assert delta_of(text, "/t:1") == TextDelta("a", "msg_1", "/t:1")
    assert delta_of(arguments, "") == ToolArgumentsDelta("{", "fc_1")
    other = ResponseCreatedEvent.model_construct(type="response.created")
    assert delta_of(other, "") is None


def test_reasoning_is_told_when_it_begins() -> None:
    begun = ResponseOutputItemAddedEvent(
        item=ResponseReasoningItem(id="rs_1", summary=[], type="reasoning"),
        output_index=0,
        sequence_number=1,
        type="response.output_item.added",
    )
    assert delta_of(begun, "/t:1") == ReasoningDelta("", "rs_1", "/t:1")
    answer = ResponseOutputMessage(id="msg_1", content=[], role="assistant", status="in_progress", type="message")
    assert delta_of(begun.model_copy(update={"item": answer}), "") is None


def test_steps_are_paths() -> None:
    one = recording()
    keys = [one.next_model_step(scope)[0] for scope in ("", "/t:a", "")]
    assert keys == ["/m1", "/t:a/m1", "/m2"]
    assert [one.scope_in("/t:b"), one.scope_in("/t:b"), one.scope_in("/t:b")] == ["/t:b", "/t:b/r2", "/t:b/r3"]
    assert one.nested_scope("", "call") == "/t:call"
    assert [one.nested_scope("/t:a", None), one.nested_scope("/t:a", None)] == ["/t:a/r1", "/t:a/r2"]


def test_step_keys_fit_their_column() -> None:
    one = recording()
    scopes = [one.nested_scope("/t:" + "x" * 250, end * 200) for end in "ab"]
    assert [len(scope) for scope in scopes] == [255, 255]
    assert scopes[0] != scopes[1]
    assert short("/m1") == "/m1"


def test_call_ids_are_claimed_once() -> None:
    one = recording([{"type": "function_call", "call_id": "known"}, {"role": "user"}])
    assert [one.claim_call_id(name) for name in ("known", "new", "new")] == [False, True, False]


def test_calls_without_an_id_are_told_apart() -> None:
    one = recording()
    first, second = one.unnamed_call_started(" shell"), one.unnamed_call_started(" shell")
    assert first != second
    assert [one.unnamed_call_ended(" shell"), one.unnamed_call_ended(" shell")] == [first, second]
    assert one.unnamed_call_ended(" shell") not in {first, second}


def test_a_tool_that_was_not_seen_to_start_took_no_time() -> None:
    assert recording().tool_ended("/t:x")[1] == 0


def test_recording_never_fails_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    secret = "a secret in a local variable"
    with never_failing("what"):
        raise ValueError("broken")
    out = capsys.readouterr().out
    assert "recording_failed" in out
    assert "ValueError: broken" in out
    assert secret not in out


def test_cancellation_passes_through() -> None:
    with pytest.raises(KeyboardInterrupt), never_failing("what"):
        raise KeyboardInterrupt


def test_a_traceback_shows_no_variables() -> None:
    secret = "sk-" + "secret"
    try:
        raise ValueError(len(secret))
    except ValueError as error:
        assert "sk-secret" not in traceback_of(error)


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


def test_a_json_schema_as_output_type() -> None:
    output = JsonSchemaOutput(SCHEMA, name="place")
    assert (output.name(), output.json_schema(), output.is_plain_text()) == ("place", SCHEMA, False)
    assert output.validate_json('{"city": "Oslo"}') == {"city": "Oslo"}
    for wrong in ('{"city": 5}', "{}", "no json", '{"city": "Oslo", "more": 1}'):
        with pytest.raises(ModelBehaviorError):
            output.validate_json(wrong)


@pytest.mark.parametrize(
    ("change", "strict"),
    [({}, True), ({"required": []}, False), ({"additionalProperties": True}, False), ({"properties": {}}, False)],
)
def test_strict_mode_needs_all_and_nothing_else(change: dict[str, Any], strict: bool) -> None:
    assert JsonSchemaOutput({**SCHEMA, **change}).is_strict_json_schema() is strict


def test_what_is_a_schema() -> None:
    assert is_schema(SCHEMA)
    assert is_schema({})
    assert not is_schema({"type": "thing"})


class Place(BaseModel):
    city: str


@dataclasses.dataclass
class Point:
    x: int
    place: Place


@pytest.mark.parametrize(
    ("final", "json", "text"),
    [
        ("text", "text", "text"),
        (Place(city="Oslo"), {"city": "Oslo"}, '{"city":"Oslo"}'),
        (Point(1, Place(city="a")), {"x": 1, "place": {"city": "a"}}, '{"x":1,"place":{"city":"a"}}'),
        ([Place(city="a")], [{"city": "a"}], '[{"city":"a"}]'),
        (None, None, "null"),
    ],
)
def test_final_outputs_are_json(final: Any, json: Any, text: str) -> None:
    assert json_output(final) == json
    assert text_output(json_output(final)) == text


def test_model_settings() -> None:
    assert model_settings({}) is None
    assert model_settings({"temperature": 0}) == ModelSettings(temperature=0)
    with pytest.raises(InvalidInput) as caught:
        model_settings({"api_key": "sk"})
    assert caught.value.param == "model_settings.api_key"
    with pytest.raises(InvalidInput):
        model_settings({"temperature": {}})
