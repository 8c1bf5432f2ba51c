"""The runtime of seed 000: six verbs on a memory with two compartments, messages and metadata."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from app.domain.errors import InvalidInput
from app.domain.models.conversations import Caller, Item
from app.domain.ports import RuntimeMemoryStore


class OpenAIRuntime:
    """Predictable memory for model calls, over durable rows: nothing of the metadata is ever part of the messages.

    What goes in and comes out are copies. An id that does not exist for the caller is an error in every verb.
    """

    def __init__(self, store: RuntimeMemoryStore) -> None:
        """Keep memories in the store."""
        self._store = store

    async def create_session(self, caller: Caller) -> str:
        """Open an empty session and return its id (`createSession`)."""
        return await self._store.create(caller)

    async def add_messages(self, caller: Caller, session_id: str, messages: Sequence[Item]) -> None:
        """Append messages in order, all or none; an empty sequence writes nothing (`addMessages`).

        Raises:
            InvalidInput: a message is no JSON object; `param` names its index, and nothing was written.
            SessionNotFound: there is no such session for this caller.
        """
        copies = [_json_object(message, f"messages[{index}]") for index, message in enumerate(messages)]
        await self._store.add_messages(caller, session_id, copies)

    async def set_metadata(self, caller: Caller, session_id: str, metadata: Mapping[str, Any]) -> None:
        """Merge metadata, key by key; a key that is not named keeps its value (`setMetadata`).

        Raises:
            InvalidInput: a value is not JSON.
            SessionNotFound: there is no such session for this caller.
        """
        await self._store.set_metadata(caller, session_id, _json_object(dict(metadata), "metadata"))

    async def get_messages(self, caller: Caller, session_id: str) -> list[Item]:
        """Return a copy of the messages, oldest first (`getMessages`).

        Raises:
            SessionNotFound: there is no such session for this caller.
        """
        return list((await self._store.get(caller, session_id)).messages)

    async def get_metadata(self, caller: Caller, session_id: str) -> dict[str, Any]:
        """Return a copy of the metadata (`getMetadata`).

        Raises:
            SessionNotFound: there is no such session for this caller.
        """
        return dict(await self._store.metadata(caller, session_id))

    async def reset(self, caller: Caller, session_id: str) -> None:
        """Delete the session with both compartments; its id is unknown from then on (`reset`).

        Raises:
            SessionNotFound: there is no such session for this caller.
        """
        await self._store.delete(caller, session_id)


def _json_object(value: object, param: str) -> dict[str, Any]:
    """Return a deep copy of a JSON object.

    It must come back from JSON as it went in: tuples, numbers as keys and NaN would be changed without a word.
    """
    try:
        copy: Any = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        copy = None
    if not isinstance(copy, dict) or copy != value:
        raise InvalidInput(f"{param} is not a JSON object.", param=param)
    return copy
