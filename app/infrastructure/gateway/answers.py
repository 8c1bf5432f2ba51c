"""Plain answers: gathered up to a limit, their usage read at the end."""

import json
import re
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from app.domain.models.gateway import Metered
from app.infrastructure.gateway.usage import NOTHING, code_of, id_of, tokens_of

MAX_KEPT_BYTES: Final = 1_048_576
"""Of an answer, to read its usage and to count its text. Of a longer one the end is kept, where its usage stands."""

_TAIL_BYTES: Final = 65_536
_TEXT: Final = re.compile(rb'"(?:content|text|refusal|arguments|reasoning_content)"\s*:\s*("(?:[^"\\]|\\.)*)')
_USAGE: Final = re.compile(r'"usage"\s*:\s*(?=\{)')


class _Answer(Struct):
    id: Any = None
    usage: Raw = NOTHING
    error: Any = None


_decode: Final = msgspec.json.Decoder(_Answer).decode


class PlainMeter:
    """AnswerMeter for a body that is one JSON value; it passes unchanged."""

    has_token = False

    def __init__(self) -> None:
        """Begin with nothing."""
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._is_tail = False
        self._metered = Metered()

    def feed(self, chunk: bytes) -> bytes:
        """Keep a part; see the port."""
        self._kept.append(chunk)
        self._kept_bytes += len(chunk)
        if self._kept_bytes > MAX_KEPT_BYTES:
            tail = b"".join(self._kept)[-_TAIL_BYTES:]
            self._kept, self._kept_bytes, self._is_tail = [tail], len(tail), True
        return chunk

    def rest(self) -> bytes:
        """Read what was kept; see the port."""
        body = b"".join(self._kept)
        if self._is_tail:
            self._metered = _metered_tail(body)
        else:
            try:
                answer = _decode(body)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                self._metered = Metered(ended=True)  # no JSON, or of another shape: passed on, and counted here
            else:
                self._metered = Metered(
                    tokens_of(answer.usage), id_of(answer.id), ended=True, error_code=code_of(answer.error)
                )
        return b""

    @property
    def metered(self) -> Metered:
        """What was read; nothing before the end."""
        return self._metered

    def output_text(self) -> str:
        """Return the texts of what has come, whether it is whole or not."""
        return "\n".join(_unquoted(found) for found in _TEXT.findall(b"".join(self._kept)))


def _metered_tail(tail: bytes) -> Metered:
    """Return the usage at the end of an answer whose begin is gone."""
    text = tail.decode(errors="replace")
    for found in reversed(list(_USAGE.finditer(text))):
        try:
            _, end = json.JSONDecoder().raw_decode(text, found.end())
            tokens = tokens_of(Raw(text[found.end() : end].encode()))
        except (ValueError, RecursionError):
            continue
        if tokens is not None:
            return Metered(tokens, ended=True)
    return Metered(ended=True)


def _unquoted(quoted: bytes) -> str:
    """Return the text of a JSON string whose end may be missing."""
    for cut in (quoted, quoted[:-1], quoted[:-2], quoted[:-3], quoted[:-4], quoted[:-5]):  # half an escape, as \u00e
        try:
            return str(json.loads(cut + b'"'))
        except ValueError:
            continue
    return quoted.decode(errors="replace")
