"""`python -m benchmarks.endpoint_server PORT`: an endpoint of the Responses API whose answer is ready.

Its CPU is not counted. The frames of a stream are written one by one without a pause, as fast as the reader takes them.
"""

import asyncio
import json
import sys
from typing import Any

from benchmarks.instant_model import DELTAS, FEW_DELTAS, LITTLE, MODEL_NAME

_MESSAGE_ID = "msg_0a1b2c3d4e5f60718293a4b5c6d7e8f9"
_USAGE = {
    "input_tokens": 1_000,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": DELTAS,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 1_000 + DELTAS,
}
_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"x-request-id: req_bench\r\ntransfer-encoding: chunked\r\n\r\n"
)


def _message(text: str, status: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}] if text else []
    return {"id": _MESSAGE_ID, "type": "message", "role": "assistant", "status": status, "content": content}


def _response(output: list[dict[str, Any]], status: str) -> dict[str, Any]:
    return {
        "id": "resp_0a1b2c3d4e5f60718293a4b5c6d7e8f9",
        "object": "response",
        "created_at": 1_700_000_000,
        "status": status,
        "model": MODEL_NAME,
        "output": output,
        "error": None,
        "incomplete_details": None,
        "instructions": "You write.",
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": _USAGE if status == "completed" else None,
    }


def _frames(deltas: int) -> list[bytes]:
    text = "word " * deltas
    place = {"item_id": _MESSAGE_ID, "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    done = _message(text, "completed")
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": _response([], "in_progress")},
        {"type": "response.in_progress", "response": _response([], "in_progress")},
        {"type": "response.output_item.added", "output_index": 0, "item": _message("", "in_progress")},
        {"type": "response.content_part.added", **place, "part": part},
        *({"type": "response.output_text.delta", **place, "delta": "word ", "logprobs": []} for _ in range(deltas)),
        {"type": "response.output_text.done", **place, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": {**part, "text": text}},
        {"type": "response.output_item.done", "output_index": 0, "item": done},
        {"type": "response.completed", "response": _response([done], "completed")},
    ]
    return [
        f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': number})}\n\n".encode()
        for number, event in enumerate(events)
    ]


def _chunks(deltas: int) -> list[bytes]:
    return [b"%x\r\n%s\r\n" % (len(frame), frame) for frame in _frames(deltas)]


_MANY, _FEW = _chunks(DELTAS), _chunks(FEW_DELTAS)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
            writer.write(_HEAD)
            for chunk in _FEW if LITTLE.encode() in body else _MANY:
                writer.write(chunk)
                await asyncio.sleep(0)
            writer.write(b"0\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _main() -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
