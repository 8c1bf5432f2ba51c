"""`python -m benchmarks.upstream_server PORT`: an upstream that answers at once; its CPU is not counted."""

import asyncio
import json
import sys
from typing import Any

CHUNKS = 100
GAP_S = 0.001
"""Between two chunks of a stream, so that each is a packet of its own."""

MODEL = "gpt-4.1-mini"
_USAGE = {
    "prompt_tokens": 19,
    "completion_tokens": 100,
    "total_tokens": 119,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}
_HEAD = {"id": "chatcmpl-Bench0123456789", "created": 1_700_000_000, "model": MODEL, "service_tier": "default"}


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _plain() -> bytes:
    message = {"role": "assistant", "content": "The river goes south. " * 20, "refusal": None, "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body = _json({**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _USAGE})
    head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_bench\r\nopenai-version: 2020-10-01"
    return f"{head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def _chunk(delta: dict[str, Any], finish: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = {**_HEAD, "object": "chat.completion.chunk", "choices": [choice], "usage": None, "obfuscation": "xxxxxx"}
    return b"data: " + _json(chunk) + b"\n\n"


_LAST = {**_HEAD, "object": "chat.completion.chunk", "choices": [], "usage": _USAGE}
FRAMES = [
    *(_chunk({"content": " river"}, None) for _ in range(CHUNKS - 1)),
    _chunk({}, "stop"),
    b"data: " + _json(_LAST) + b"\n\n",
    b"data: [DONE]\n\n",
]
_PLAIN = _plain()
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"x-request-id: req_bench\r\nopenai-version: 2020-10-01\r\ntransfer-encoding: chunked\r\n\r\n"
)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
            if not json.loads(body).get("stream"):
                writer.write(_PLAIN)
                continue
            writer.write(_STREAM_HEAD)
            for frame in FRAMES:
                writer.write(b"%x\r\n%s\r\n" % (len(frame), frame))
                await asyncio.sleep(GAP_S)
            writer.write(b"0\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _main() -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
