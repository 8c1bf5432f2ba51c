"""What every endpoint shares: the state, the model with its script, and the shape of a call and its answer."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from .asks import Ask
from .brain import think
from .replies import Reply, Scripted, resolve
from .stores import Stores
from .wire import IdSource, JsonObject, encode, model_not_found

DEFAULT_MODELS = (
    "gpt-4.1",
    "gpt-4.1-mini",
    "gpt-4.1-nano",
    "gpt-4o",
    "gpt-4o-mini",
    "gpt-5",
    "gpt-5-mini",
    "gpt-5-nano",
    "gpt-5.1",
    "gpt-5.2",
    "gpt-5.4",
    "gpt-5.4-mini",
    "gpt-5.4-nano",
    "o4-mini",
    "text-embedding-3-small",
    "text-embedding-3-large",
    "text-embedding-ada-002",
)


def _nothing() -> None:
    """The default of the two hooks of an answer."""


@dataclass(frozen=True)
class Answer:
    """What an endpoint wants sent: one JSON body, or the frames of an event stream.

    `on_complete` runs just before the last frame leaves (the moment at which the API stores a response), `on_end` once
    at the end whatever happened.
    """

    chunks: list[bytes]
    status: int = 200
    streamed: bool = False
    on_complete: Callable[[], None] = _nothing
    on_end: Callable[[], None] = _nothing


def json_answer(
    payload: JsonObject,
    *,
    on_complete: Callable[[], None] = _nothing,
    on_end: Callable[[], None] = _nothing,
) -> Answer:
    """An answer of one JSON body with status 200."""
    return Answer([encode(payload)], on_complete=on_complete, on_end=on_end)


@dataclass(frozen=True)
class Call:
    """One request as an endpoint sees it; `body` is `{}` where the method has none."""

    body: JsonObject
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)


class Backend:
    """The API behind the HTTP: models, ids, stores, and the queue of scripted replies."""

    def __init__(self, models: Iterable[str]) -> None:
        self.models = tuple(models)
        self.ids = IdSource()
        self.stores = Stores(self.ids)
        self._lock = threading.Lock()
        self._script: deque[Scripted] = deque()

    def script(self, entries: Iterable[Scripted]) -> None:
        """Queue replies for the next model calls, after those already queued. Callable from any thread."""
        with self._lock:
            self._script.extend(entries)

    @property
    def scripted_left(self) -> int:
        """How many queued replies no model call has taken."""
        with self._lock:
            return len(self._script)

    def reply(self, ask: Ask) -> Reply:
        """The next scripted reply, or the brain's."""
        with self._lock:
            entry = self._script.popleft() if self._script else None
        return think(ask) if entry is None else resolve(entry, ask)

    def require_model(self, model: str) -> None:
        """Refuse a model that this server does not have, or one that makes embeddings only."""
        if model not in self.models or model.startswith("text-embedding"):
            raise model_not_found(model)
