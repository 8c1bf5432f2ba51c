"""Event streams: passed on as they come, their usage and end read on the way."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw, Struct

from app.domain.models.gateway import GatewayPath, Metered
from app.infrastructure.gateway.usage import NOTHING, code_of, id_of, tokens_of

MAX_FRAME_BYTES: Final = 16_777_216
"""Of one event; a stream without blank lines is passed on, and not read any more."""

_COLLAPSE_BYTES: Final = 262_144
"""Frames that are kept for a count of their text; then they become that text, which is a twentieth of them."""
_MAX_TEXT_CHARS: Final = 4_000_000

_MAX_DONE_BYTES: Final = 24
_BLANK: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LAST: Final = re.compile(rb'response\.(?:completed|incomplete|failed|cancelled)|"error"')
_NO_USAGE: Final = b',"usage":null'
"""What every chunk holds once usage is asked for. A text has its quotes escaped, so it is found nowhere else."""
_ENDS: Final = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "response.cancelled", "error"}
)


class _Function(Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(Struct):
    function: _Function | None = None


class _Delta(Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_ToolCall] | None = None

    def text(self) -> str:
        calls = [call.function for call in self.tool_calls or () if call.function is not None]
        called = "".join(f"{function.name or ''}{function.arguments or ''}" for function in calls)
        return f"{self.reasoning_content or ''}{self.content or ''}{self.refusal or ''}{called}"


class _Choice(Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(Struct):
    """An event of a streamed chat."""

    id: Any = None
    choices: list[_Choice] | None = None
    usage: Raw = NOTHING
    error: Any = None


class _Response(Struct):
    id: Any = None
    usage: Raw = NOTHING
    error: Any = None


class _Event(Struct):
    """An event of a streamed response."""

    type: str = ""
    delta: Any = None
    response: _Response | None = None
    error: Any = None
    code: Any = None


_Decoded = TypeVar("_Decoded")

_decode_chunk: Final = msgspec.json.Decoder(_Chunk).decode
_decode_event: Final = msgspec.json.Decoder(_Event).decode


class StreamMeter:
    """AnswerMeter for Server-Sent Events of a chat or a response."""

    def __init__(self, path: GatewayPath, *, hide_usage: bool) -> None:
        """`hide_usage`: the client did not ask for the usage and must not see it."""
        self.has_token = False
        self._is_chat = path == "/chat/completions"
        self._hides = hide_usage
        self._open = b""
        """The begin of a frame whose end has not come."""
        self._frames: list[bytes] = []
        self._frame_bytes = 0
        self._texts: list[str] = []
        self._text_chars = 0
        self._metered = Metered()

    def feed(self, chunk: bytes) -> bytes:
        """Read the frames that a part completes; see the port."""
        buffer = self._open + chunk if self._open else chunk
        if b"\r" in buffer:
            frames = _BLANK.split(buffer)
            whole = [found.group() for found in _BLANK.finditer(buffer)]
        else:
            frames = buffer.split(b"\n\n")
            whole = [b"\n\n"] * (len(frames) - 1)
        self._open = frames.pop()
        if len(self._open) > MAX_FRAME_BYTES:
            self._open, passed = b"", self._open
            return passed if self._hides else chunk
        shown: list[bytes] = []
        for frame, blank in zip(frames, whole, strict=True):
            if not self._read(frame) and self._hides:
                shown += (frame, blank)
        if not self._hides:
            return chunk
        return b"".join(shown).replace(_NO_USAGE, b"")

    def rest(self) -> bytes:
        """Take the end of the stream; see the port."""
        left, self._open = self._open, b""
        is_hidden = bool(left.strip()) and self._read(left)  # the last frame may lack its blank line
        if self._is_chat and not self._metered.ended and self._has_finished():
            self._metered = replace(self._metered, ended=True)  # some hosts leave the last line, `[DONE]`, out
        return left.replace(_NO_USAGE, b"") if self._hides and not is_hidden else b""

    @property
    def metered(self) -> Metered:
        """What was read so far; see the port."""
        return self._metered

    def output_text(self) -> str:
        """Return the text so far; see the port."""
        last = [self._text_in(frame) for frame in self._frames]
        return "".join([*self._texts, *last])

    def _read(self, frame: bytes) -> bool:
        """Read one frame; tells whether it is there for the usage alone."""
        self._frames.append(frame)
        self._frame_bytes += len(frame)
        if self._frame_bytes > _COLLAPSE_BYTES:
            self._collapse()
        if self._is_chat:
            return self._read_chunk(frame)
        if not self.has_token and b'.delta"' in frame:
            self.has_token = True
        if _LAST.search(frame) is not None:
            self._read_event(frame)
        return False

    def _read_chunk(self, frame: bytes) -> bool:
        if len(frame) < _MAX_DONE_BYTES and b"[DONE]" in frame:
            self._metered = replace(self._metered, ended=True)
            return False
        has_usage = b'"usage"' in frame and _NO_USAGE not in frame
        if self.has_token and not has_usage and b'"error"' not in frame:
            return False
        chunk = _decoded(_decode_chunk, frame)
        if chunk is None:
            return False
        if not self.has_token:
            self.has_token = _text_of(chunk) != ""
        code = code_of(chunk.error) or self._metered.error_code
        self._metered = Metered(
            tokens_of(chunk.usage) or self._metered.tokens,
            id_of(chunk.id) or self._metered.response_id,
            ended=self._metered.ended or code is not None,
            error_code=code,
        )
        return not chunk.choices and not chunk.error and bytes(chunk.usage) != b"null"

    def _read_event(self, frame: bytes) -> None:
        event = _decoded(_decode_event, frame)
        if event is None or event.type not in _ENDS:
            return
        response = event.response or _Response()
        code = code_of(response.error or event.error)
        if code is None and event.type in {"response.failed", "error"}:
            code = code_of({"code": event.code})
        self._metered = Metered(tokens_of(response.usage), id_of(response.id), ended=True, error_code=code)

    def _has_finished(self) -> bool:
        """Tell whether a chat's answer has ended, though its stream does not say so."""
        chunks = [_decoded(_decode_chunk, frame) for frame in self._frames[-3:]]
        return any(choice.finish_reason for chunk in chunks if chunk is not None for choice in chunk.choices or ())

    def _collapse(self) -> None:
        """Turn the frames that were kept into the text that they hold, but for the last ones."""
        ready, self._frames = self._frames[:-3], self._frames[-3:]
        self._frame_bytes = sum(map(len, self._frames))
        for frame in ready:
            self._keep_text(self._text_in(frame))

    def _keep_text(self, text: str) -> None:
        if text and self._text_chars < _MAX_TEXT_CHARS:
            self._texts.append(text)
            self._text_chars += len(text)

    def _text_in(self, frame: bytes) -> str:
        if self._is_chat:
            chunk = _decoded(_decode_chunk, frame)
            return "" if chunk is None else _text_of(chunk)
        if b'.delta"' not in frame:
            return ""
        event = _decoded(_decode_event, frame)
        return event.delta if event is not None and isinstance(event.delta, str) else ""


def _text_of(chunk: _Chunk) -> str:
    return "".join(choice.delta.text() for choice in chunk.choices or () if choice.delta is not None)


def _decoded(decode: Callable[[bytes], _Decoded], frame: bytes) -> _Decoded | None:
    """Return the data of a frame; None when it has none, or what cannot be read."""
    if frame.startswith(b"data: ") and b"\n" not in frame and b"\r" not in frame:
        data = frame[6:]
    else:
        lines = [line[5:] for line in frame.splitlines() if line.startswith(b"data:")]
        data = b"\n".join(lines)
    try:
        return decode(data) if data else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
