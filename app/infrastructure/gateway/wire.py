"""Requests for upstream models: read as far as needed, changed only where the usage of a stream is asked for."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

import msgspec
from msgspec import Raw, Struct

from app.domain.errors import InvalidInput
from app.domain.gateway_ports import AnswerMeter
from app.domain.models.gateway import GatewayPath, GatewayRequest, Header
from app.domain.models.usage import TokenUsage
from app.infrastructure.gateway.answers import PlainMeter
from app.infrastructure.gateway.streams import StreamMeter

MAX_MODEL_CHARS: Final = 255
"""What the column holds; a longer name could not be recorded as what it is."""

_ESCAPED_MODEL: Final = re.compile(rb"\\u006[dDfF45cC]")
_PROMPT_FIELDS: Final = ("instructions", "messages", "input", "prompt", "tools", "functions", "text", "response_format")


class _StreamOptions(Struct):
    include_usage: bool | None = None


class _Body(Struct):
    """The fields that matter on the way; the rest is the upstream's to judge."""

    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    background: bool | None = None


_decode: Final = msgspec.json.Decoder(_Body).decode
_decode_members: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_encode_members: Final = msgspec.json.Encoder().encode


class JsonWire:
    """GatewayWire for the JSON of OpenAI's API."""

    def __init__(self, count_tokens: Callable[[str], int], *, stream_usage: bool) -> None:
        """`count_tokens` counts what was cut; `stream_usage`: ask for the usage of streamed chats (see `read`)."""
        self._count = count_tokens
        self._stream_usage = stream_usage

    def read(self, path: GatewayPath, body: bytes, headers: Sequence[Header]) -> GatewayRequest:
        """Return what a body asks for; see the port.

        A streamed chat tells its usage only when asked to. Where the client does not ask, we do, and take it out of
        what the client sees; with `stream_usage` off its tokens are counted here instead.
        """
        asked = _asked(body)
        if path == "/responses" and asked.background:
            raise InvalidInput(
                "'background' is not supported for this model: nobody could account for what it uses.",
                param="background",
            )
        if _may_repeat(body):
            # Upstreams differ in which of two equal names counts; the model that was allowed must be the one called.
            body = _encode_members(_decode_members(body))
        add = path == "/chat/completions" and bool(asked.stream) and self._stream_usage
        if add and not (asked.stream_options and asked.stream_options.include_usage):
            return GatewayRequest(path, asked.model, _with_usage(body), usage_added=True, headers=headers)
        return GatewayRequest(path, asked.model, body, headers=headers)

    def meter(self, request: GatewayRequest, *, streamed: bool) -> AnswerMeter:
        """Return what reads the answer; see the port."""
        if streamed:
            return StreamMeter(request.path, hide_usage=request.usage_added)
        return PlainMeter()

    def estimate(self, request: GatewayRequest, output_text: str) -> TokenUsage:
        """Count the tokens of all texts of the request, and of the answer so far; see the port."""
        try:
            body: Any = msgspec.json.decode(request.body)
        except (msgspec.MsgspecError, RecursionError):  # a lone surrogate: not for this decoder, maybe for the upstream
            return TokenUsage(
                requests=1,
                input_tokens=self._count(request.body.decode(errors="replace")),
                output_tokens=self._count(output_text),
            )
        asked: dict[str, Any] = cast("dict[str, Any]", body) if isinstance(body, dict) else {}
        counted = 0
        texts: list[str] = []
        for part in _leaves([asked.get(field) for field in _PROMPT_FIELDS]):
            if isinstance(part, str):
                texts.append(part)
            elif request.path == "/embeddings" and type(part) is int:
                counted += 1  # a token by its number
        return TokenUsage(
            requests=1,
            input_tokens=counted + self._count("\n".join(texts)),
            output_tokens=self._count(output_text),
        )


def _asked(body: bytes) -> _Body:
    try:
        asked = _decode(body)
    except msgspec.ValidationError as error:
        raise _misfit(body) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput("The body is not JSON, or is nested too deeply.") from error
    if not asked.model or len(asked.model) > MAX_MODEL_CHARS:
        raise InvalidInput(f"'model' is a name of 1 to {MAX_MODEL_CHARS} characters.", param="model")
    return asked


def _misfit(body: bytes) -> InvalidInput:
    """Return which field is wrong; the decoder's own words are not for clients."""
    try:
        members = _decode_members(body)
    except msgspec.MsgspecError:
        return InvalidInput("The body must be a JSON object.")
    kinds: Mapping[str, tuple[Any, str]] = {
        "model": (str, "must be the name of a model"),
        "stream": (bool | None, "must be true or false"),
        "stream_options": (_StreamOptions | None, "must be an object whose 'include_usage' is true or false"),
        "background": (bool | None, "must be true or false"),
    }
    for name, (kind, wanted) in kinds.items():
        if name not in members:
            continue
        try:
            msgspec.json.decode(members[name], type=kind)
        except msgspec.MsgspecError:
            return InvalidInput(f"'{name}' {wanted}.", param=name)
    return InvalidInput("'model' is required.", param="model")


def _may_repeat(body: bytes) -> bool:
    """Tell whether the body might name its model twice: by the same name, or by an escaped one."""
    return body.count(b'"model"') != 1 or _ESCAPED_MODEL.search(body) is not None


def _with_usage(body: bytes) -> bytes:
    """Return a body that asks for the stream's usage; the values of all other members stay byte for byte."""
    members = _decode_members(body)
    options: dict[str, Raw] = {}
    if "stream_options" in members and bytes(members["stream_options"]) != b"null":
        options = _decode_members(members["stream_options"])
    options["include_usage"] = Raw(b"true")
    members["stream_options"] = Raw(_encode_members(options))
    return _encode_members(members)


def _leaves(value: Any) -> Iterator[Any]:
    """Yield all values inside that are neither objects nor lists, in order; names, and data in URLs, are left out."""
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            waiting.extend(reversed(list(cast("dict[str, Any]", node).values())))
        elif isinstance(node, list):
            waiting.extend(reversed(cast("list[Any]", node)))
        elif not (isinstance(node, str) and node.startswith("data:")):
            yield node
