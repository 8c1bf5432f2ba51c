"""Sums what model calls used, in whichever shape they report it."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from app.capture.ports import name

MAX_MODELS: Final = 32
MAX_TOKENS: Final = 1 << 53

_Places = tuple[tuple[str, ...], ...]
_FIGURES: Final[dict[str, _Places]] = {
    "input_tokens": (("input_tokens",), ("prompt_tokens",)),
    "output_tokens": (("output_tokens",), ("completion_tokens",)),
    "total_tokens": (("total_tokens",),),
    "cached_tokens": (
        ("input_tokens_details", "cached_tokens"),
        ("prompt_tokens_details", "cached_tokens"),
        ("input_token_details", "cached_tokens"),
        ("input_token_details", "cache_read"),
        ("cached_input_tokens",),
        ("cached_tokens",),
    ),
    "reasoning_tokens": (
        ("output_tokens_details", "reasoning_tokens"),
        ("completion_tokens_details", "reasoning_tokens"),
        ("output_token_details", "reasoning"),
        ("reasoning_tokens",),
    ),
    "input_audio_tokens": (
        ("input_token_details", "audio_tokens"),
        ("input_tokens_details", "audio_tokens"),
        ("prompt_tokens_details", "audio_tokens"),
        ("input_token_details", "audio"),
        ("input_audio_tokens",),
    ),
    "output_audio_tokens": (
        ("output_token_details", "audio_tokens"),
        ("output_tokens_details", "audio_tokens"),
        ("completion_tokens_details", "audio_tokens"),
        ("output_token_details", "audio"),
        ("output_audio_tokens",),
    ),
}
"""Each figure, and where OpenAI's Responses, Chat Completions and Realtime APIs and LangChain put it."""


class UsageTally:
    """The sum of several model calls; figures that nobody reported stay away, for unknown is not zero."""

    def __init__(self) -> None:
        self.requests = 0
        """Model calls."""
        self._figures: dict[str, int] = {}
        self._models: dict[str, None] = {}

    @property
    def models(self) -> list[str]:
        """The models in the order of their first call, at most 32."""
        return list(self._models)

    @property
    def total_tokens(self) -> int:
        """All tokens, 0 if nobody reported any."""
        return self._figures.get("total_tokens", 0)

    def add(self, usage: Any, model: Any = None) -> bool:
        """Add one report of usage, a mapping or an object of the SDK; return whether it held a figure.

        A report without a number of requests is one request. Anything that is no count (a negative number, a
        fraction, text) is left out; a report of no token at all tells the request only.
        """
        self.add_model(model)
        requests = _count(_get(usage, "requests"))
        self.requests += 1 if requests is None else requests
        figures = dict(_figures(usage))
        if not any(figures.values()):
            return False
        if "total_tokens" not in figures:
            figures["total_tokens"] = figures.get("input_tokens", 0) + figures.get("output_tokens", 0)
        for figure, value in figures.items():
            self._figures[figure] = min(self._figures.get(figure, 0) + value, MAX_TOKENS)
        return True

    def add_model(self, model: Any) -> None:
        """Remember that a model was used."""
        known = name(model)
        if known is not None and len(self._models) < MAX_MODELS:
            self._models[known] = None

    def event_fields(self) -> dict[str, Any]:
        """Return the event's `usage` and `models`; fields of which nothing is known are missing."""
        fields: dict[str, Any] = {}
        if self.requests:
            fields["usage"] = {**self._figures, "requests": self.requests}
        if self._models:
            fields["models"] = self.models
        return fields


def _figures(usage: Any) -> Iterator[tuple[str, int]]:
    for figure, places in _FIGURES.items():
        for place in places:
            value = usage
            for key in place:
                value = _get(value, key)
            count = _count(value)
            if count is not None:
                yield figure, count
                break


def _get(holder: Any, key: str) -> Any:
    if holder is None:
        return None
    if type(holder) is dict or isinstance(holder, Mapping):
        return holder.get(key)
    return getattr(holder, key, None)


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None
