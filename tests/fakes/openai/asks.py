"""What a model is asked, the same for both wires, and how many tokens that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .wire import JsonObject

Speaker = Literal["system", "user", "model", "tool"]


@dataclass(frozen=True)
class Entry:
    """One item or message of the context, reduced to who spoke and its words.

    `text` joins all texts of the entry with a space: message texts, the name and arguments of a call, a tool's output,
    the summary of a reasoning item. Images and files are the word `[image]` or `[file]`.
    """

    speaker: Speaker
    text: str


@dataclass(frozen=True)
class Tool:
    """A function that the caller offers."""

    name: str
    parameters: JsonObject


@dataclass(frozen=True)
class Ask:
    """One request to the model after all history was put before its input.

    `tool_choice` is auto, none, required, or the name of a function that must be called. `schema` is the JSON schema of
    the wished output, None for text; `json_object` asks for any JSON object.
    """

    model: str
    instructions: str
    entries: tuple[Entry, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    parallel: bool = True
    schema: JsonObject | None = None
    json_object: bool = False
    max_output_tokens: int | None = None
    reasons: bool = False

    @property
    def user_texts(self) -> list[str]:
        """The user's messages in order; their number is how much the model remembers."""
        return [entry.text for entry in self.entries if entry.speaker == "user"]

    @property
    def trailing_outputs(self) -> list[str]:
        """The tool outputs at the very end of the context; empty when anything else is last."""
        found: list[str] = []
        for entry in reversed(self.entries):
            if entry.speaker != "tool":
                break
            found.insert(0, entry.text)
        return found


def content_text(content: Any) -> str:
    """The words of a message's `content` or a tool's `output`: a string, a list of parts, or null."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for part in content:
        kind = str(part.get("type", ""))
        if "image" in kind:
            texts.append("[image]")
        elif "file" in kind:
            texts.append("[file]")
        else:
            texts.append(str(part.get("text") or part.get("refusal") or ""))
    return " ".join(text for text in texts if text)
