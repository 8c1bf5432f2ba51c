"""Streams: whatever way the network cuts them into parts, the same is read and shown."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.models.gateway import GatewayPath
from app.infrastructure.gateway import streams
from app.infrastructure.gateway.streams import StreamMeter

CHAT: GatewayPath = "/chat/completions"
RESPONSES: GatewayPath = "/responses"


def frame(data: Any, event: str | None = None, blank: str = "\n\n") -> bytes:
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
    head = "" if event is None else f"event: {event}{blank[: len(blank) // 2]}"
    return f"{head}data: {text}{blank}".encode()


def chat_chunk(content: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    delta = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "chatcmpl-1", "choices": [choice], "usage": None, **more}


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}
CHAT_FRAMES = [
    frame({**chat_chunk(), "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}),
    frame(chat_chunk("Hé ")),
    frame(chat_chunk('says ,"usage":null and [DONE]')),
    frame(chat_chunk(None, "stop")),
    frame({"id": "chatcmpl-1", "choices": [], "usage": USAGE}),
    frame("[DONE]"),
]
RESPONSE_FRAMES = [
    frame({"type": "response.created", "response": {"id": "resp_1", "error": None, "usage": None}}, "response.created"),
    frame({"type": "response.output_text.delta", "delta": "Hé "}, "response.output_text.delta"),
    frame({"type": "response.output_text.delta", "delta": "response.completed"}, "response.output_text.delta"),
    frame({"type": "response.output_text.done", "text": "Hé response.completed"}, "response.output_text.done"),
    frame(
        {
            "type": "response.completed",
            "response": {
                "id": "resp_1",
                "usage": {
                    "input_tokens": 7,
                    "output_tokens": 3,
                    "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 1},
                    "output_tokens_details": {"reasoning_tokens": 1},
                },
            },
        },
        "response.completed",
    ),
]


def passed(meter: StreamMeter, body: bytes, cuts: list[int]) -> bytes:
    """Feed a body in parts, and return what the client sees."""
    places = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    parts = [body[start:end] for start, end in pairwise(places)]
    return b"".join([*(meter.feed(part) for part in parts), meter.rest()])


cuts = st.lists(st.integers(0, 2_000), max_size=12)


@given(cuts)
def test_a_chat_whose_usage_was_asked_for(places: list[int]) -> None:
    meter = StreamMeter(CHAT, hide_usage=False)
    body = b"".join(CHAT_FRAMES)
    assert passed(meter, body, places) == body
    metered = meter.metered
    assert metered.tokens is not None
    assert (metered.tokens.input_tokens, metered.tokens.output_tokens, metered.tokens.cached_tokens) == (7, 3, 2)
    assert (metered.response_id, metered.ended, metered.error_code) == ("chatcmpl-1", True, None)
    assert meter.output_text() == 'Hé says ,"usage":null and [DONE]'


@given(cuts)
def test_a_chat_whose_usage_is_hidden(places: list[int]) -> None:
    meter = StreamMeter(CHAT, hide_usage=True)
    without = b"".join([*CHAT_FRAMES[:4], CHAT_FRAMES[5]]).replace(b',"usage":null', b"")
    assert passed(meter, b"".join(CHAT_FRAMES), places) == without
    assert meter.metered.tokens is not None
    assert b'says ,\\"usage\\":null and' in without


@given(cuts)
def test_a_response(places: list[int]) -> None:
    meter = StreamMeter(RESPONSES, hide_usage=False)
    body = b"".join(RESPONSE_FRAMES)
    assert passed(meter, body, places) == body
    tokens = meter.metered.tokens
    assert tokens is not None
    assert (tokens.input_tokens, tokens.cache_write_tokens, tokens.reasoning_tokens) == (7, 1, 1)
    assert (meter.metered.response_id, meter.metered.ended) == ("resp_1", True)
    assert meter.output_text() == "Hé response.completed"


@given(cuts, st.sampled_from(["\r\n\r\n", "\r\r"]))
def test_other_line_ends(places: list[int], blank: str) -> None:
    line_end = blank[: len(blank) // 2].encode()
    body = b"".join(RESPONSE_FRAMES).replace(b"\n", line_end)
    meter = StreamMeter(RESPONSES, hide_usage=False)
    assert passed(meter, body, places) == body
    assert meter.metered.ended


@pytest.mark.parametrize("hide", [False, True])
def test_a_cut_stream_has_not_ended(hide: bool) -> None:
    for frames, path in ((CHAT_FRAMES[:3], CHAT), (RESPONSE_FRAMES[:-1], RESPONSES)):
        meter = StreamMeter(path, hide_usage=hide)
        meter.feed(b"".join(frames))
        meter.rest()
        assert not meter.metered.ended
        assert meter.metered.tokens is None


def test_a_chat_without_its_last_line() -> None:
    """Some hosts leave `[DONE]` out, or its blank line."""
    meter = StreamMeter(CHAT, hide_usage=False)
    meter.feed(b"".join(CHAT_FRAMES[:4]))
    assert not meter.metered.ended
    meter.rest()
    assert meter.metered.ended
    meter = StreamMeter(CHAT, hide_usage=True)
    assert meter.feed(CHAT_FRAMES[1] + b"data: [DONE]") == CHAT_FRAMES[1].replace(b',"usage":null', b"")
    assert meter.rest() == b"data: [DONE]"
    assert meter.metered.ended


def test_the_first_word() -> None:
    meter = StreamMeter(CHAT, hide_usage=False)
    meter.feed(CHAT_FRAMES[0])
    assert not meter.has_token
    meter.feed(CHAT_FRAMES[1])
    assert meter.has_token
    meter = StreamMeter(RESPONSES, hide_usage=False)
    meter.feed(RESPONSE_FRAMES[0])
    assert not meter.has_token
    meter.feed(RESPONSE_FRAMES[1])
    assert meter.has_token


@pytest.mark.parametrize(
    ("path", "data", "code"),
    [
        (CHAT, {"error": {"message": "x", "code": "server_error"}}, "server_error"),
        (CHAT, {"error": {"message": "x", "type": "overloaded", "code": None}}, "overloaded"),
        (CHAT, {"error": "words"}, "upstream_error"),
        (RESPONSES, {"type": "error", "code": "rate_limit_exceeded", "message": "x"}, "rate_limit_exceeded"),
        (RESPONSES, {"type": "error", "error": {"code": 500}}, "500"),
        (RESPONSES, {"type": "response.failed", "response": {"id": "r", "error": {"code": "bad"}}}, "bad"),
        (RESPONSES, {"type": "response.failed", "response": {"id": "r", "error": None}}, "upstream_error"),
        (RESPONSES, {"type": "response.incomplete", "response": {"id": "r", "usage": "?"}}, None),
    ],
)
def test_bad_ends(path: GatewayPath, data: Any, code: str | None) -> None:
    meter = StreamMeter(path, hide_usage=path == CHAT)
    assert meter.feed(frame(data)) == frame(data)
    assert meter.metered.ended
    assert meter.metered.error_code == code
    assert meter.metered.tokens is None


@pytest.mark.parametrize(
    "odd",
    [
        b"data: {nonsense\n\n",
        b": a comment\n\n",
        b"\n\n\n\n",
        b"event: ping\n\n",
        b"data: [1,2]\n\n",
        b'data: {"choices":"none","usage":{"prompt_tokens":-5}}\n\n',
        b'data: {"id":5,"choices":[{"delta":{"content":["x"]}}]}\n\n',
        b"data: " + b"[" * 100_000 + b"\n\n",
        b"data: \xff\xfe\n\n",
    ],
)
@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_odd_frames_pass(path: GatewayPath, odd: bytes) -> None:
    meter = StreamMeter(path, hide_usage=True)
    assert meter.feed(odd) == odd
    assert not meter.metered.ended
    assert meter.output_text() == ""


def test_a_long_stream_is_kept_as_its_text() -> None:
    meter = StreamMeter(CHAT, hide_usage=False)
    for _ in range(5_000):
        meter.feed(CHAT_FRAMES[1])
    assert meter._frame_bytes <= streams._COLLAPSE_BYTES
    assert meter.output_text() == "Hé " * 5_000


def test_a_stream_without_frames_is_not_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_FRAME_BYTES", 1_000)
    for hide in (False, True):
        meter = StreamMeter(CHAT, hide_usage=hide)
        shown = b"".join(meter.feed(b"x" * 300) for _ in range(8)) + meter.rest()
        assert shown == b"x" * 2_400


def test_usage_beside_the_last_words_is_shown() -> None:
    last = frame({**chat_chunk("end", "stop"), "usage": USAGE})
    meter = StreamMeter(CHAT, hide_usage=True)
    assert meter.feed(last) == last
    assert meter.metered.tokens is not None


def test_tool_calls_are_text_too() -> None:
    call = {"index": 0, "function": {"name": "look", "arguments": '{"a":1}'}}
    meter = StreamMeter(CHAT, hide_usage=False)
    meter.feed(frame({"choices": [{"delta": {"tool_calls": [call], "reasoning_content": "hm "}}]}))
    assert meter.has_token
    assert meter.output_text() == 'hm look{"a":1}'
