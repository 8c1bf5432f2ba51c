"""JSON values that callers send as they like: bounded in depth, because everything behind walks them recursively."""

from collections.abc import Iterator
from typing import Annotated, Any, Final

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

MAX_DEPTH: Final = 100


def nodes(value: Any) -> Iterator[tuple[Any, int]]:
    """Yield every object and list inside of a JSON value, itself included, with its depth from 1."""
    waiting = [(value, 1)]
    while waiting:
        node, depth = waiting.pop()
        if isinstance(node, dict):
            children = node.values()
        elif isinstance(node, list):
            children = node
        else:
            continue
        yield node, depth
        waiting.extend((child, depth + 1) for child in children)


def shallow(value: Any) -> Any:
    """Return a value unchanged; a pydantic validator.

    Raises:
        PydanticCustomError: it is nested more than 100 levels deep.
    """
    if any(depth > MAX_DEPTH for _, depth in nodes(value)):
        raise PydanticCustomError("json_value", "Nested too deeply")
    return value


JsonObject = Annotated[dict[str, Any], AfterValidator(shallow)]
"""Any JSON object that is not nested too deeply."""
