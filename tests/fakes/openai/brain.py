"""The model when no script is set: deterministic, and its answers show what it remembers.

In this order:

1. Tool outputs at the end of the context: it answers with their text, joined by new lines.
2. The last user message holds `call:NAME {json}`, once or more, for offered functions: it calls them, all at once, or
   the first alone if `parallel_tool_calls` is false. Without `{json}` the arguments are `{}`. Other names are text.
3. `tool_choice` demands a call: it calls that function (or the first) with the smallest arguments that fit.
4. Else it answers `echo N: TEXT`: the number of user messages in the context and the last of them.

With a JSON schema the answer (1 or 4) is the smallest object that fits, its free strings being that text; with
`json_object` it is `{"text": ...}`. When the request asks for reasoning, a reasoning item `thinking about N messages`
goes first. A text of more words than the output limit is cut and the response incomplete.
"""

from __future__ import annotations

import json
import re
from typing import Any

from .asks import Ask
from .json_schemas import minimal_instance
from .replies import Call, Part, Reasoning, Reply, Text

_CALL = re.compile(r"\bcall:([A-Za-z0-9_-]+)\s*")


def think(ask: Ask) -> Reply:
    """Answer `ask` by the rules above."""
    reasoning: tuple[Part, ...] = ()
    if ask.reasons:
        reasoning = (Reasoning(f"thinking about {len(ask.entries)} messages"),)
    if not ask.trailing_outputs and (calls := _calls(ask)):
        return Reply((*reasoning, *calls))
    text = _say(ask)
    words = text.split()
    limit = ask.max_output_tokens
    if limit is not None and len(words) > limit:
        return Reply((*reasoning, Text(" ".join(words[:limit]))), status="incomplete")
    return Reply((*reasoning, Text(text)))


def _say(ask: Ask) -> str:
    users = ask.user_texts
    outputs = ask.trailing_outputs
    text = "\n".join(outputs) if outputs else f"echo {len(users)}: {users[-1] if users else ''}"
    if ask.schema is not None:
        return json.dumps(minimal_instance(ask.schema, text))
    return json.dumps({"text": text}) if ask.json_object else text


def _calls(ask: Ask) -> list[Call]:
    if ask.tool_choice == "none" or not ask.tools:
        return []
    offered = {tool.name: tool for tool in ask.tools}
    last = ask.user_texts[-1] if ask.user_texts else ""
    matches = (match for match in _CALL.finditer(last) if match[1] in offered)
    found = [Call(match[1], _arguments(last, match.end())) for match in matches]
    if ask.tool_choice in offered:
        found = [call for call in found if call.name == ask.tool_choice]
    if not found and ask.tool_choice != "auto":
        tool = offered.get(ask.tool_choice, ask.tools[0])
        found = [Call(tool.name, minimal_instance(tool.parameters or {"type": "object"}, last))]
    return found if ask.parallel else found[:1]


def _arguments(text: str, start: int) -> dict[str, Any]:
    if not text[start:].startswith("{"):
        return {}
    try:
        value, _ = json.JSONDecoder().raw_decode(text, start)
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
