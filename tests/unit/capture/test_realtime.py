import asyncio
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from agents import function_tool
from agents.realtime import RealtimeAgent, RealtimeRunner, RealtimeSession
from agents.realtime.items import AssistantMessageItem, AssistantText, InputText, UserMessageItem
from agents.realtime.model_events import (
    RealtimeModelAudioEvent,
    RealtimeModelEndOfStreamEvent,
    RealtimeModelErrorEvent,
    RealtimeModelExceptionEvent,
    RealtimeModelInputTokensDetails,
    RealtimeModelItemUpdatedEvent,
    RealtimeModelOutputTokensDetails,
    RealtimeModelToolCallEvent,
    RealtimeModelTurnEndedEvent,
    RealtimeModelUsageEvent,
)
from agents.realtime.model_inputs import RealtimeModelSendToolOutput, RealtimeModelSendUserInput
from agents.realtime.testing import RealtimeStep, ScriptedRealtimeModel
from agents.usage import Usage

from app.capture.realtime import RealtimeCapture, capture_realtime_session_completion
from app.services.session_payloads import session_event
from tests.unit.capture.recorder import Broken, Recorder


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def usage(*, cached: int = 0, audio_in: int = 60, audio_out: int = 30) -> RealtimeModelUsageEvent:
    total = Usage(requests=1, input_tokens=100, output_tokens=40, total_tokens=140)
    total.input_tokens_details.cached_tokens = cached
    return RealtimeModelUsageEvent(
        usage=total,
        input_tokens_details=RealtimeModelInputTokensDetails(
            text_tokens=40, audio_tokens=audio_in, cached_tokens=cached
        ),
        output_tokens_details=RealtimeModelOutputTokensDetails(text_tokens=10, audio_tokens=audio_out),
    )


def said(item_id: str, text: str) -> RealtimeModelItemUpdatedEvent:
    return RealtimeModelItemUpdatedEvent(
        item=UserMessageItem(item_id=item_id, role="user", content=[InputText(text=text)])
    )


def answered(item_id: str, text: str) -> RealtimeModelItemUpdatedEvent:
    return RealtimeModelItemUpdatedEvent(
        item=AssistantMessageItem(item_id=item_id, role="assistant", content=[AssistantText(text=text)])
    )


END = RealtimeModelEndOfStreamEvent()
TURN_ENDED = RealtimeModelTurnEndedEvent()


@function_tool
def lookup() -> str:
    return "found"


async def session_of(model: ScriptedRealtimeModel, **agent: Any) -> RealtimeSession:
    return await RealtimeRunner(RealtimeAgent(name="Voice", **agent), model=model).run()


async def test_a_session_is_one_event_with_its_speech_apart(recorder: Recorder) -> None:
    audio = RealtimeModelAudioEvent(data=b"\0" * 1000, response_id="r1", item_id="i2", content_index=0)
    model = ScriptedRealtimeModel(
        [
            RealtimeStep(
                RealtimeModelSendUserInput,
                [
                    said("i1", "hello"),
                    audio,
                    answered("i2", "hi"),
                    answered("i2", "hi there"),
                    usage(cached=8),
                    TURN_ENDED,
                ],
            ),
            RealtimeStep(
                RealtimeModelSendUserInput, [said("i3", "bye"), answered("i4", "bye"), usage(), TURN_ENDED, END]
            ),
        ]
    )
    model.model = "gpt-realtime"  # type: ignore[attr-defined]
    capture = RealtimeCapture(
        recorder, await session_of(model), session_id="s1", user_id="u1", organization_id="acme", transport="websocket"
    )
    async with capture as session:
        await session.send_message("hello")
        await session.send_message("bye")
        seen = [event.type async for event in session]
    assert "audio" in seen, "the program still gets its own events"
    event = recorder.only
    assert event["usage"] == {
        "requests": 2, "input_tokens": 200, "output_tokens": 80, "total_tokens": 280,
        "cached_tokens": 8, "input_audio_tokens": 120, "output_audio_tokens": 60,
    }  # fmt: skip
    assert (event["session_id"], event["user_id"], event["organization_id"]) == ("s1", "u1", "acme")
    assert (event["session_type"], event["transport"], event["input_modality"]) == ("realtime", "websocket", "audio")
    assert (event["message_count"], event["tool_call_count"], event["models"]) == (4, 0, ["gpt-realtime"])
    assert event["outcome"] == {"status": "success", "error_code": None}
    read = session_event(event).payload["usage"]
    assert (read["cost_usd"], read["estimated"]) == (None, False), "speech is not priced as text"
    assert model.listeners == ()


async def test_calls_of_tools_count(recorder: Recorder) -> None:
    call = RealtimeModelToolCallEvent(name="lookup", call_id="c1", arguments="{}")
    model = ScriptedRealtimeModel(
        [
            RealtimeStep(RealtimeModelSendUserInput, [said("i1", "find"), call]),
            RealtimeStep(RealtimeModelSendToolOutput, [answered("i2", "found"), TURN_ENDED, END]),
        ]
    )
    async with RealtimeCapture(recorder, await session_of(model, tools=[lookup]), session_id="s1") as session:
        await session.send_message("find")
        async with asyncio.timeout(5):
            async for _ in session:
                pass
    assert recorder.only["tool_call_count"] == 1
    assert "usage" not in recorder.only, "nobody told it, so it is unknown"


async def test_a_connection_that_fails_is_an_error_and_goes_on(recorder: Recorder) -> None:
    model = ScriptedRealtimeModel(connect_error=ConnectionRefusedError("secret host"))
    with pytest.raises(ConnectionRefusedError):
        async with RealtimeCapture(recorder, await session_of(model), session_id="s1"):
            pytest.fail("not entered")
    assert recorder.only["outcome"] == {"status": "error", "error_code": "connection_refused_error"}
    assert "secret" not in str(recorder.events)


async def test_an_exception_of_the_transport_is_an_error(recorder: Recorder) -> None:
    model = ScriptedRealtimeModel(
        [RealtimeStep(RealtimeModelSendUserInput, [usage(), RealtimeModelExceptionEvent(exception=OSError("gone"))])]
    )
    with pytest.raises(OSError, match="gone"):
        async with RealtimeCapture(recorder, await session_of(model), session_id="s1") as session:
            await session.send_message("hello")
            async for _ in session:
                pass
    assert recorder.only["outcome"]["error_code"] == "os_error"
    assert recorder.only["usage"]["total_tokens"] == 140


@pytest.mark.parametrize(("goes_on", "outcome"), [(True, "success"), (False, "error")])
async def test_a_refused_request_is_an_error_only_if_nothing_follows(
    recorder: Recorder, *, goes_on: bool, outcome: str
) -> None:
    refused = RealtimeModelErrorEvent(
        error={"type": "invalid_request_error", "code": "late_cancel", "message": "words"}
    )
    events = [refused, answered("i1", "hi"), TURN_ENDED, END] if goes_on else [refused, END]
    model = ScriptedRealtimeModel([RealtimeStep(RealtimeModelSendUserInput, events)])
    async with RealtimeCapture(recorder, await session_of(model), session_id="s1") as session:
        await session.send_message("hello")
    assert recorder.only["outcome"] == {"status": outcome, "error_code": None if goes_on else "late_cancel"}
    assert "words" not in str(recorder.events)


async def test_a_cancelled_session_is_the_users_doing(recorder: Recorder) -> None:
    entered = asyncio.Event()

    async def talk() -> None:
        async with RealtimeCapture(recorder, await session_of(ScriptedRealtimeModel()), session_id="s1"):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(talk())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorder.only["outcome"]["status"] == "user_terminated"


async def test_a_session_that_cannot_be_closed_is_captured(recorder: Recorder) -> None:
    model = ScriptedRealtimeModel(close_error=RuntimeError("stuck"))
    with pytest.raises(RuntimeError, match="stuck"):
        async with RealtimeCapture(recorder, await session_of(model), session_id="s1"):
            pass
    assert recorder.only["outcome"]["status"] == "error"


async def test_who_hung_up_is_for_the_program_to_say(recorder: Recorder) -> None:
    capture = RealtimeCapture(recorder, await session_of(ScriptedRealtimeModel()), session_id="s1")
    async with capture:
        capture.finish("user_terminated")
    capture.finish("error")
    assert recorder.only["outcome"] == {"status": "user_terminated", "error_code": None}


def test_a_connection_that_is_held_elsewhere_gives_its_events(recorder: Recorder) -> None:
    capture = RealtimeCapture(recorder, session_id="call_1", transport="sip", event_id="call-1-end")
    response = {
        "status": "completed",
        "output": [{"type": "message", "id": "i2"}, {"type": "function_call", "id": "i3"}],
        "usage": {
            "input_tokens": 50, "output_tokens": 20, "total_tokens": 70,
            "input_token_details": {"text_tokens": 10, "audio_tokens": 40, "cached_tokens": 5},
            "output_token_details": {"text_tokens": 2, "audio_tokens": 18},
        },
    }  # fmt: skip
    for event in [
        {"type": "session.created", "session": {"model": "gpt-realtime"}},
        {"type": "conversation.item.created", "item": {"type": "message", "id": "i1"}},
        {"type": "conversation.item.added", "item": {"type": "message", "id": "i1"}},
        {"type": "response.output_audio.delta", "delta": "AAAA"},
        {"type": "error", "error": {"code": "late"}},
        {"type": "response.done", "response": response},
        {"type": "response.done"},
        {"type": "response.done", "response": {"status": "cancelled", "output": None, "usage": None}},
    ]:
        capture.on_server_event(event)
    capture.finish()
    event = recorder.only
    assert event["event_id"] == "call-1-end"
    assert event["usage"] == {
        "requests": 1, "input_tokens": 50, "output_tokens": 20, "total_tokens": 70,
        "cached_tokens": 5, "input_audio_tokens": 40, "output_audio_tokens": 18,
    }  # fmt: skip
    assert (event["message_count"], event["tool_call_count"], event["models"]) == (2, 1, ["gpt-realtime"])
    assert (event["transport"], event["outcome"]["status"]) == ("sip", "success")


@pytest.mark.parametrize(
    ("error", "code"), [({"code": "server_error"}, "server_error"), ({"type": "x"}, "x"), (None, "realtime_error")]
)
def test_a_response_that_failed_last_is_an_error(recorder: Recorder, error: Any, code: str) -> None:
    capture = RealtimeCapture(recorder, session_id="s1", transport="webrtc")
    capture.on_server_event(
        {"type": "response.done", "response": {"status": "failed", "status_details": {"error": error}}}
    )
    capture.finish()
    assert recorder.only["outcome"] == {"status": "error", "error_code": code}


@pytest.mark.parametrize("transport", ["websocket", "webrtc", "sip"])
def test_a_session_is_told_in_one_call(recorder: Recorder, transport: Any) -> None:
    capture_realtime_session_completion(
        recorder,
        session_id="s1",
        user_id="u1",
        organization_id="acme",
        start_time=datetime(2026, 1, 1, 12, tzinfo=UTC),
        end_time=datetime(2026, 1, 1, 12, 1, tzinfo=UTC),
        input_tokens=300,
        output_tokens=100,
        input_audio_tokens=250,
        output_audio_tokens=90,
        model="gpt-realtime",
        outcome="user_terminated",
        input_modality="audio",
        transport=transport,
        message_count=None,
    )
    read = session_event(recorder.only)
    assert (read.session_id, read.user_id, read.organization_id) == ("s1", "u1", "acme")
    assert read.outcome == "user_terminated"
    assert (read.payload["session_type"], read.payload["transport"]) == ("realtime", transport)
    assert read.payload["duration_ms"] == 60_000
    assert read.payload["models"] == ["gpt-realtime"]
    figures = read.payload["usage"]
    assert (figures["total_tokens"], figures["input_audio_tokens"], figures["output_audio_tokens"]) == (400, 250, 90)
    assert figures["cost_usd"] is None


async def test_a_broken_runtime_breaks_no_session() -> None:
    broken = Broken()
    async with RealtimeCapture(broken, await session_of(ScriptedRealtimeModel()), session_id="s1") as session:
        assert isinstance(session, RealtimeSession)
    assert broken.calls == 1


async def test_odd_events_harm_nothing(recorder: Recorder) -> None:
    capture = RealtimeCapture(recorder, session_id="s1")
    await capture.on_event(object())
    await capture.on_event(RealtimeModelUsageEvent(usage=None))  # type: ignore[arg-type]
    for event in [{"type": "response.done", "response": 3}, {"type": "session.created"}, {}]:
        capture.on_server_event(event)
    capture.finish()
    assert recorder.only["outcome"]["status"] == "success"


def test_importing_it_brings_no_framework() -> None:
    code = (
        "import sys, app.capture.realtime\n"
        "assert not {'agents', 'openai', 'langchain_core', 'fastapi', 'sqlalchemy', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
