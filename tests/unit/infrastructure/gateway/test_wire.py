"""Requests and plain answers, read as far as needed."""

import json
from typing import Any

import pytest

from app.domain.errors import InvalidInput
from app.domain.models.gateway import GatewayPath, GatewayRequest
from app.domain.models.usage import TokenUsage
from app.infrastructure.gateway import answers
from app.infrastructure.gateway.answers import PlainMeter
from app.infrastructure.gateway.wire import JsonWire

WIRE = JsonWire(lambda text: len(text.split()), stream_usage=True)


def read(path: GatewayPath, body: bytes) -> GatewayRequest:
    return WIRE.read(path, body, [])


@pytest.mark.parametrize(
    "body",
    [
        b' { "messages" : [ ] , "model":"m", "x": 1.50 }\n',
        b'{"model":"m","stream":false}',
        b'{"model":"m","stream":null,"stream_options":null}',
        '{"model":"m","input":"\\"model\\" é \\u00e9"}'.encode(),
    ],
)
@pytest.mark.parametrize("path", ["/chat/completions", "/responses", "/embeddings"])
def test_bytes_stay(path: GatewayPath, body: bytes) -> None:
    asked = read(path, body)
    assert asked.body is body
    assert (asked.model, asked.usage_added) == ("m", False)


def test_usage_is_asked_for_in_streamed_chats_only() -> None:
    body = b'{"model":"m", "stream": true, "temperature": 1.50,"stream_options":{"include_obfuscation" : false}}'
    asked = read("/chat/completions", body)
    assert asked.usage_added
    assert b'"temperature":1.50' in asked.body
    assert json.loads(asked.body)["stream_options"] == {"include_obfuscation": False, "include_usage": True}
    assert read("/responses", body).body is body
    without = JsonWire(len, stream_usage=False).read("/chat/completions", body, [])
    assert (without.body, without.usage_added) == (body, False)


def test_a_client_that_asks_gets_its_bytes() -> None:
    body = b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}'
    assert read("/chat/completions", body).body is body


@pytest.mark.parametrize("first", ['"model"', '"mod\\u0065l"', '"\\u006Dodel"', '"m\\u006fdel"'])
def test_one_model_goes_on(first: str) -> None:
    asked = read("/responses", f'{{{first}:"expensive","model":"cheap","input":"x"}}'.encode())
    assert asked.model == "cheap"
    assert json.loads(asked.body, object_pairs_hook=list) == [["model", "cheap"], ["input", "x"]] or (
        json.loads(asked.body, object_pairs_hook=list) == [("model", "cheap"), ("input", "x")]
    )


def test_background_cannot_be_accounted_for() -> None:
    with pytest.raises(InvalidInput) as refused:
        read("/responses", b'{"model":"m","background":true}')
    assert refused.value.param == "background"
    assert read("/responses", b'{"model":"m","background":false}').model == "m"


@pytest.mark.parametrize(
    ("path", "body", "tokens"),
    [
        ("/chat/completions", {"messages": [{"content": "a b"}, {"content": [{"text": "c d"}]}]}, 4),
        ("/responses", {"input": "a b", "instructions": "c", "tools": [{"description": "d e"}]}, 5),
        ("/responses", {"input": [{"content": [{"image_url": "data:image/png;base64,AAAA"}, {"text": "a"}]}]}, 1),
        ("/responses", {"metadata": {"a": "not in the prompt"}, "input": 5}, 0),
        ("/embeddings", {"input": ["a b", "c"]}, 3),
        ("/embeddings", {"input": [[1, 2, 3], [4]]}, 4),
        ("/embeddings", {"input": [1, 2, 3]}, 3),
    ],
)
def test_the_estimate_of_a_request(path: GatewayPath, body: dict[str, Any], tokens: int) -> None:
    request = GatewayRequest(path, "m", json.dumps({"model": "m", **body}).encode())
    assert WIRE.estimate(request, "x y z") == TokenUsage(requests=1, input_tokens=tokens, output_tokens=3)


def test_a_body_that_only_the_upstream_reads_is_counted_as_text() -> None:
    request = GatewayRequest("/responses", "m", b'{"input": NaN words}')
    assert WIRE.estimate(request, "").input_tokens == 3


def meter_of(body: bytes, step: int = 7) -> PlainMeter:
    meter = PlainMeter()
    assert b"".join(meter.feed(body[start : start + step]) for start in range(0, len(body), step)) == body
    assert not meter.metered.ended
    assert meter.rest() == b""
    return meter


@pytest.mark.parametrize(
    ("body", "tokens", "response_id", "code"),
    [
        ({"id": "r", "usage": {"prompt_tokens": 3, "total_tokens": 3}}, (3, 0), "r", None),
        ({"id": "r", "usage": {"input_tokens": 3, "output_tokens": 4}, "error": None}, (3, 4), "r", None),
        ({"id": 7, "usage": {"prompt_tokens": "3"}}, None, None, None),
        ({"usage": {"prompt_tokens": -3}}, None, None, None),
        ({"usage": {"prompt_tokens": 2**60}}, None, None, None),
        ({"usage": None}, None, None, None),
        ([1, 2], None, None, None),
        ({"error": {"code": "no", "message": "secret"}}, None, None, "no"),
    ],
)
def test_a_plain_answer(body: Any, tokens: tuple[int, int] | None, response_id: str | None, code: str | None) -> None:
    metered = meter_of(json.dumps(body).encode()).metered
    assert metered.ended
    told = None if metered.tokens is None else (metered.tokens.input_tokens, metered.tokens.output_tokens)
    assert (told, metered.response_id, metered.error_code) == (tokens, response_id, code)


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"[" * 100_000, b'{"usage": {"prompt_tokens": 3}'])
def test_a_plain_answer_that_is_none(body: bytes) -> None:
    metered = meter_of(body, 60_000).metered
    assert (metered.ended, metered.tokens) == (True, None)


def test_a_long_answer_keeps_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    data = [[0.25] * 1_000] * 400
    body = json.dumps({"data": data, "usage": {"prompt_tokens": 9}, "more": {"usage": {"x": 1}}}, indent=1).encode()
    assert len(body) > 2 * answers.MAX_KEPT_BYTES
    meter = meter_of(body, 65_536)
    assert meter.metered.tokens is not None
    assert meter.metered.tokens.input_tokens == 9
    assert meter._kept_bytes <= answers.MAX_KEPT_BYTES
    lost = json.dumps({"usage": {"prompt_tokens": 9}, "data": data}).encode()
    assert meter_of(lost, 65_536).metered.tokens is None


@pytest.mark.parametrize("end", range(1, 40))
def test_the_text_of_a_cut_answer(end: int) -> None:
    body = rb'{"choices":[{"message":{"content":"one \u00e9 \"two\" \ud83d\ude00 three"}}]}'
    start = body.index(b"one")
    meter = PlainMeter()
    meter.feed(body[: start + end])
    text = meter.output_text()
    assert 'one é "two" 😀 three'.startswith(text.rstrip("\ud83d")) or text == 'one é "two" 😀 three'
