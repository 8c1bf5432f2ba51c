import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.background import BackgroundTask
from starlette.middleware.gzip import GZipMiddleware
from starlette.testclient import TestClient

from app.capture.asgi import MAX_TAIL_BYTES, SessionCompletionMiddleware, completion_of
from app.services.session_payloads import session_event
from tests.unit.capture.recorder import Broken, Recorder

USAGE = {
    "prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 1},
}  # fmt: skip
READ = {
    "requests": 1, "input_tokens": 9, "output_tokens": 3, "total_tokens": 12, "cached_tokens": 4, "reasoning_tokens": 1,
}  # fmt: skip


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def serving(answer: Any, recorder: Any, **options: Any) -> TestClient:
    app = FastAPI()
    app.add_api_route("/v1/chat/completions", answer, methods=["POST"], response_model=None)
    app.add_api_route("/health", answer, methods=["POST"], response_model=None)
    options.setdefault("paths", ["/v1/*"])
    app.add_middleware(SessionCompletionMiddleware, runtime=recorder, **options)
    return TestClient(app, raise_server_exceptions=False)


def post(client: TestClient, **options: Any) -> Any:
    return client.post("/v1/chat/completions", json={}, **options)


def test_a_gateway_captures_each_call(recorder: Recorder) -> None:
    # As in the document's example: chat, embeddings and fine-tuning, each known by its path.
    app = FastAPI()
    app.add_middleware(
        SessionCompletionMiddleware,
        runtime=recorder,
        paths=["/v1/chat/completions", "/v1/embeddings", "/v1/fine_tuning/*"],
    )

    @app.post("/v1/{rest:path}")
    async def forward(rest: str) -> dict[str, Any]:
        figures = {"embeddings": {"prompt_tokens": 8, "total_tokens": 8}, "chat/completions": USAGE}
        return {"model": f"model of {rest}", "usage": figures.get(rest)}

    client = TestClient(app)
    for path in ["chat/completions", "embeddings", "fine_tuning/jobs", "models"]:
        assert client.post(f"/v1/{path}").status_code == 200
    chat, embeddings, tuning = recorder.events
    assert chat["usage"] == READ
    assert embeddings["usage"] == {"requests": 1, "input_tokens": 8, "total_tokens": 8}
    assert "usage" not in tuning
    assert [event["models"] for event in recorder.events] == [
        ["model of chat/completions"],
        ["model of embeddings"],
        ["model of fine_tuning/jobs"],
    ]
    assert chat["session_type"] == "api"
    assert (chat["metadata"]["method"], chat["metadata"]["path"]) == ("POST", "/v1/chat/completions")
    assert chat["session_id"] == chat["event_id"] != embeddings["event_id"]


@pytest.mark.parametrize("is_trusted", [False, True])
def test_headers_count_only_if_they_are_trusted(recorder: Recorder, *, is_trusted: bool) -> None:
    client = serving(lambda: JSONResponse({}), recorder, trust_headers=is_trusted)
    headers = {"x-session-id": "s1", "x-user-id": "u1", "x-organization-id": "acme", "x-session-start": "2026-01-01"}
    post(client, headers=headers)
    event = recorder.only
    assert event.get("user_id") == ("u1" if is_trusted else None)
    assert event.get("organization_id") == ("acme" if is_trusted else None)
    assert (event["session_id"] == "s1") == is_trusted


@pytest.mark.parametrize("form", ["milliseconds", "seconds", "text"])
def test_a_session_may_have_begun_before_the_request(recorder: Recorder, form: str) -> None:
    post(serving(lambda: JSONResponse({}), recorder))
    began_ms = recorder.only["start_time"] - 60_000
    text = session_event({"session_id": "x", "timestamp": began_ms}).timestamp
    assert text is not None
    told = {"milliseconds": str(began_ms), "seconds": str(began_ms / 1000), "text": text}[form]
    post(serving(lambda: JSONResponse({}), recorder, trust_headers=True), headers={"x-session-start": told})
    event = recorder.events[1]
    assert abs(event["start_time"] - began_ms) <= 1
    assert event["duration_ms"] >= 60_000 > event["metadata"]["request_ms"]


@pytest.mark.parametrize("odd", ["", "soon", "nan", "inf", "-1", "1e300", "9999999999999"])
def test_an_odd_start_is_not_believed(recorder: Recorder, odd: str) -> None:
    post(serving(lambda: JSONResponse({}), recorder, trust_headers=True), headers={"x-session-start": odd})
    assert recorder.only["duration_ms"] == recorder.only["metadata"]["request_ms"]


def test_a_handler_adds_what_it_knows(recorder: Recorder) -> None:
    async def answer(request: Request) -> dict[str, Any]:
        completion = completion_of(request)
        assert request.state.completion is completion
        completion.session_id, completion.user_id, completion.organization_id = "s1", "u1", "acme"
        completion.session_type = "chat"
        completion.message_count = 4
        completion.metadata["tool"] = "search"
        completion.add_usage({"input_tokens": 1, "output_tokens": 1}, "small")
        completion.add_usage({"input_tokens": 2, "output_tokens": 2}, "large")
        return {"usage": USAGE, "model": "shown"}

    post(serving(answer, recorder))
    event = recorder.only
    assert event["usage"] == {"requests": 2, "input_tokens": 3, "output_tokens": 3, "total_tokens": 6}
    assert event["models"] == ["small", "large"]
    assert (event["session_id"], event["session_type"], event["message_count"]) == ("s1", "chat", 4)
    assert event["metadata"]["tool"] == "search"


def test_a_handler_may_say_how_it_ended_or_that_it_was_nothing(recorder: Recorder) -> None:
    def failed(request: Request) -> Response:
        completion_of(request).outcome = "error"
        completion_of(request).error_code = "refused_by_policy"
        return JSONResponse({})

    def skipped(request: Request) -> Response:
        completion_of(request).skip()
        return JSONResponse({})

    post(serving(failed, recorder))
    post(serving(skipped, recorder))
    assert recorder.only["outcome"] == {"status": "error", "error_code": "refused_by_policy"}


def test_other_paths_are_left_alone(recorder: Recorder) -> None:
    def answer(request: Request) -> Response:
        completion_of(request).add_usage(USAGE)
        assert not hasattr(request.state, "completion")
        return JSONResponse({})

    assert serving(answer, recorder).post("/health").status_code == 200
    assert recorder.events == []


@pytest.mark.parametrize(
    ("status", "outcome", "code"),
    [
        (200, "success", None),
        (302, "success", None),
        (404, "error", "http_404"),
        (408, "timeout", "http_408"),
        (429, "error", "http_429"),
        (500, "error", "http_500"),
        (504, "timeout", "http_504"),
    ],
)
def test_the_status_tells_how_it_ended(recorder: Recorder, status: int, outcome: str, code: str | None) -> None:
    post(serving(lambda: JSONResponse({"usage": USAGE}, status), recorder), follow_redirects=False)
    assert recorder.only["outcome"] == {"status": outcome, "error_code": code}
    assert recorder.only["metadata"]["status"] == status


@pytest.mark.parametrize(
    ("error", "outcome", "code"),
    [(ValueError("secret words"), "error", "value_error"), (TimeoutError(), "timeout", "timeout_error")],
    ids=["error", "timeout"],
)
def test_a_handler_that_raises_is_told_by_its_error(
    recorder: Recorder, error: Exception, outcome: str, code: str
) -> None:
    def answer() -> Response:
        raise error

    assert post(serving(answer, recorder)).status_code == 500
    assert recorder.only["outcome"] == {"status": outcome, "error_code": code}
    assert "secret" not in str(recorder.only)


def chunks(*, usage: dict[str, Any] | None) -> list[bytes]:
    told = [
        {"model": "gpt-4o", "choices": [{"delta": {"content": 'say "usage": {"total_tokens": 9}'}}], "usage": None},
        {"model": "gpt-4o", "choices": [], "usage": usage},
    ]
    return [b"data: " + json.dumps(one).encode() + b"\n\n" for one in told] + [b"data: [DONE]\n\n"]


@pytest.mark.parametrize("is_read", [False, True])
def test_a_stream_passes_unchanged_and_is_read_if_asked(recorder: Recorder, *, is_read: bool) -> None:
    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks(usage=USAGE):
            yield chunk

    client = serving(lambda: StreamingResponse(stream(), media_type="text/event-stream"), recorder, read_usage=is_read)
    assert post(client).content == b"".join(chunks(usage=USAGE))
    assert recorder.only.get("usage") == (READ if is_read else None)
    assert recorder.only.get("models") == (["gpt-4o"] if is_read else None)
    assert 0 <= recorder.only["first_token_ms"] <= recorder.only["duration_ms"]


def test_a_stream_of_the_responses_api_is_read(recorder: Recorder) -> None:
    done = {
        "type": "response.completed",
        "response": {
            "model": "gpt-4.1",
            "output": [{"text": "x" * 100}],
            "usage": {
                "input_tokens": 5, "input_tokens_details": {"cached_tokens": 2}, "output_tokens": 1, "total_tokens": 6,
            },
            "metadata": {},
        },
    }  # fmt: skip
    body = b"event: response.completed\ndata: " + json.dumps(done).encode() + b"\n\n"
    post(serving(lambda: Response(body, media_type="text/event-stream"), recorder))
    assert recorder.only["usage"] == {
        "requests": 1, "input_tokens": 5, "output_tokens": 1, "total_tokens": 6, "cached_tokens": 2,
    }  # fmt: skip
    assert recorder.only["models"] == ["gpt-4.1"]


@pytest.mark.parametrize("pieces", [1, 7])
def test_a_large_answer_is_read_from_its_end(recorder: Recorder, pieces: int) -> None:
    vectors = [{"embedding": [0.25] * 1_000, "index": index} for index in range(40)]
    body = json.dumps({"data": vectors, "model": "embed-3", "usage": {"prompt_tokens": 8, "total_tokens": 8}}).encode()
    assert len(body) > 3 * MAX_TAIL_BYTES

    async def stream() -> AsyncIterator[bytes]:
        size = len(body) // pieces + 1
        for start in range(0, len(body), size):
            yield body[start : start + size]

    client = serving(lambda: StreamingResponse(stream(), media_type="application/json"), recorder)
    assert post(client).content == body
    assert recorder.only["usage"] == {"requests": 1, "input_tokens": 8, "total_tokens": 8}
    assert recorder.only["models"] == ["embed-3"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[1]",
        b'{"usage": 3}',
        b'{"usage": {"total_tokens": -1}}',
        b'{"usage": {"total_tokens": 1.5}}',
        b"{",
        b"\xff",
    ],
)
def test_an_answer_without_usage_has_none(recorder: Recorder, body: bytes) -> None:
    response = post(serving(lambda: Response(body, media_type="application/json"), recorder))
    assert response.content == body
    assert not recorder.only.get("usage", {}).get("total_tokens")


def test_endless_braces_are_read_in_no_time(recorder: Recorder) -> None:
    body = b'"usage":{' * 20_000
    post(serving(lambda: Response(body, media_type="application/json"), recorder))
    assert recorder.only["duration_ms"] < 5_000
    assert "usage" not in recorder.only


def test_a_compressed_answer_passes_unread(recorder: Recorder) -> None:
    app = FastAPI()
    app.add_middleware(GZipMiddleware, minimum_size=1)
    app.add_middleware(SessionCompletionMiddleware, runtime=recorder, paths=["/x"])

    @app.get("/x")
    def answer() -> dict[str, Any]:
        return {"usage": USAGE}

    assert TestClient(app).get("/x", headers={"accept-encoding": "gzip"}).json() == {"usage": USAGE}
    assert "usage" not in recorder.only


def test_work_after_the_answer_is_no_part_of_it(recorder: Recorder) -> None:
    seen: list[int] = []

    def answer() -> Response:
        return JSONResponse({"usage": USAGE}, background=BackgroundTask(lambda: seen.append(len(recorder.events))))

    post(serving(answer, recorder))
    assert seen == [1], "captured before the work began"
    assert recorder.only["usage"] == READ


def scope(path: str = "/v1/x", kind: str = "http") -> dict[str, Any]:
    return {"type": kind, "path": path, "method": "POST", "headers": [], "asgi": {"spec_version": "2.3"}}


START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}


async def serve(app: Any, recorder: Any, *, send: Any = None, receive: Any = None) -> None:
    async def nothing(_: Any) -> None:
        pass

    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    middleware = SessionCompletionMiddleware(app, recorder, paths=["/v1/*"])
    await middleware(scope(), receive or gone, send or nothing)


async def test_each_byte_is_sent_before_anything_is_read(recorder: Recorder) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        assert recorder.events == []
        sent.append(message)

    bodies = [{"type": "http.response.body", "body": chunk, "more_body": True} for chunk in chunks(usage=USAGE)]
    messages = [START, *bodies, {"type": "http.response.body"}]

    async def app(_: Any, __: Any, send: Any) -> None:
        for number, message in enumerate(messages):
            await send(message)
            assert sent[number] is message, "handed on as it is, at once"

    await serve(app, recorder, send=send)
    assert recorder.only["usage"] == READ


async def test_a_client_that_leaves_is_told(recorder: Recorder) -> None:
    async def listening(_: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": b"data: x\n\n", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"

    async def broken_pipe(_: Any) -> None:
        raise BrokenPipeError

    async def cancelled(*_: Any) -> None:
        raise asyncio.CancelledError

    await serve(listening, recorder)
    with pytest.raises(BrokenPipeError):
        await serve(listening, recorder, send=broken_pipe)
    with pytest.raises(asyncio.CancelledError):
        await serve(cancelled, recorder)
    assert [event["outcome"]["status"] for event in recorder.events] == ["user_terminated"] * 3


async def test_a_client_that_leaves_after_the_answer_has_it(recorder: Recorder) -> None:
    async def app(_: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": b""})
        await receive()
        raise RuntimeError("too late to matter")

    with pytest.raises(RuntimeError):
        await serve(app, recorder)
    assert recorder.only["outcome"]["status"] == "success"


async def test_an_answer_that_stops_half_way_is_an_error(recorder: Recorder) -> None:
    async def half(_: Any, __: Any, send: Any) -> None:
        await send(START)

    async def silent(*_: Any) -> None:
        pass

    await serve(half, recorder)
    await serve(silent, recorder)
    assert [event["outcome"]["error_code"] for event in recorder.events] == ["incomplete_response"] * 2


async def test_what_is_no_request_passes(recorder: Recorder) -> None:
    seen: list[str] = []

    async def app(passed: Any, *_: Any) -> None:
        seen.append(passed["type"])
        assert "state" not in passed

    middleware = SessionCompletionMiddleware(app, recorder, paths=["/v1/*"])
    for kind in ["lifespan", "websocket"]:
        await middleware(scope(kind=kind), None, None)  # type: ignore[arg-type]
    assert seen == ["lifespan", "websocket"]
    assert recorder.events == []


def test_requests_share_no_completion(recorder: Recorder) -> None:
    def answer(request: Request) -> Response:
        completion_of(request).add_usage({"input_tokens": 1, "output_tokens": 0})
        return JSONResponse({})

    client = serving(answer, recorder)
    for _ in range(3):
        post(client)
    assert [event["usage"]["requests"] for event in recorder.events] == [1, 1, 1]


def test_a_broken_runtime_breaks_no_answer() -> None:
    broken = Broken()
    assert post(serving(lambda: JSONResponse({"a": 1}), broken)).json() == {"a": 1}
    assert broken.calls == 1
