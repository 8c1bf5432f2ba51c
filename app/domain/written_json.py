"""An object that was written as JSON already: whoever stores it need not write it again."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final


class WrittenObject(Mapping[str, Any]):
    """A JSON object, kept as its text and read when somebody looks inside.

    A batch of a thousand events is one object each for the garbage collector this way, and not six.
    """

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        """`text`: compact ASCII JSON of an object."""
        self.text: Final = text

    def __getitem__(self, name: str) -> Any:
        """Return a field."""
        return self._values()[name]

    def __iter__(self) -> Iterator[str]:
        """Go through the names of the fields, in their order."""
        return iter(self._values())

    def __len__(self) -> int:
        """Return how many fields there are."""
        return len(self._values())

    def __repr__(self) -> str:
        """Show the text."""
        return f"WrittenObject({self.text!r})"

    def _values(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(self.text)
        return values
