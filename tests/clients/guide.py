"""The examples of docs/clients.md, one by one: what a reader would paste, with the address and the key of a server."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clients.server import Address

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
PLACE, KEY = "http://localhost:8000", "sk-…"
"""What stands in an example for the server and for a key of the reader's."""

_BLOCK = re.compile(r"^## (?P<title>[^\n]+)$|^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """A block of the guide."""

    title: str
    """Of its section."""
    language: str
    """`python`, `js` or `sh`."""
    code: str

    def at(self, address: Address) -> str:
        """Return the code as a reader with this server and key would have it.

        Raises:
            ValueError: it does not say which server or which key; what runs then would not be the example.
        """
        for needed in (PLACE, KEY):
            if needed not in self.code:
                raise ValueError(f"The example '{self.title}' does not hold {needed}.")
        return self.code.replace(PLACE, address.base_url).replace(KEY, address.api_key)

    def is_answered_by(self, output: str) -> bool:
        """Tell whether a program's output holds what the demo model answers to the example's question."""
        return ("Looked up with a tool" if "weather" in self.code else "data: [DONE]") in output


def examples() -> list[Example]:
    """Return the examples in the order of the guide."""
    title = ""
    found: list[Example] = []
    for match in _BLOCK.finditer(PAGE.read_text()):
        if match["title"]:
            title = match["title"]
        else:
            found.append(Example(title, match["language"], match["code"]))
    return found


def curl_request(command: str) -> dict[str, Any]:
    """Return what a `curl` command sends, as arguments of an HTTP client's `request`; knows the options of the guide.

    Raises:
        ValueError: it is another program, or an option is not known.
    """
    program, *words = shlex.split(command.replace("\\\n", " "))
    if program != "curl":
        raise ValueError(f"{program} is not curl.")
    headers: dict[str, str] = {}
    request: dict[str, Any] = {"method": "GET", "headers": headers}
    while words:
        match words.pop(0):
            case "-s" | "-N" | "-sN":
                pass
            case "-X":
                request["method"] = words.pop(0)
            case "-H":
                name, _, value = words.pop(0).partition(":")
                headers[name] = value.strip()
            case "-d":
                request |= {"method": "POST", "content": words.pop(0)}
            case word if word.startswith("-"):
                raise ValueError(f"The option {word} of curl is not known here.")
            case word:
                request["url"] = word
    return request
