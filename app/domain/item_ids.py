"""Ids of history items: an item's own, or one made from the row that holds it.

An own id is shown where it can only mean this item: a long one, as model endpoints mint them. Short ones (`msg_1`) and
placeholders come twice in one conversation sooner or later, so such items, and those that have none, are named by
their row: `msg_` and 16 hex digits.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

_PREFIXES: Final = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
}
_BY_ROW: Final = re.compile(r"[a-z]+_([0-9a-f]{16})")
_OWN: Final = re.compile(r"[A-Za-z0-9]+_[A-Za-z0-9_-]{20,116}")
MAX_ROW: Final = 2**63 - 1


def item_kind(item: Mapping[str, Any]) -> str:
    """Return the type of an item; messages may leave it out."""
    kind = item.get("type")
    return kind if isinstance(kind, str) else "message"


def row_item_id(item: Mapping[str, Any], row: int) -> str:
    """Return the id that an item has by its row."""
    return f"{_PREFIXES.get(item_kind(item), 'item')}_{row:016x}"


def own_item_id(item: Mapping[str, Any]) -> str | None:
    """Return an item's own id, if it can name the item."""
    own = item.get("id")
    return own if isinstance(own, str) and _OWN.fullmatch(own) is not None else None


def row_of_item_id(item_id: str) -> int | None:
    """Return the row that an id was made from; None: it was not made here."""
    found = _BY_ROW.fullmatch(item_id)
    if found is None:
        return None
    row = int(found[1], 16)
    return row if row <= MAX_ROW else None


def could_be_own_item_id(item_id: str) -> bool:
    """Tell whether an id may be an item's own."""
    return _OWN.fullmatch(item_id) is not None
