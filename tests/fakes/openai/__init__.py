"""A fake OpenAI server for tests: real HTTP on 127.0.0.1, the real API's refusals, a deterministic model.

    with FakeOpenAI() as fake:
        client = AsyncOpenAI(base_url=fake.base_url, api_key=fake.api_key, max_retries=0)

Without a script the model is the one in `brain.py` (`echo N: TEXT`, `call:NAME {json}`); token counts follow the rule
in `metering.py`. What it does not do is refused with the code `unsupported_by_fake`: `background`, `prompt`, `n`.
Hosted tools (web search, ...) are accepted and never used.
"""

from .asks import Ask, Entry, Tool
from .backend import DEFAULT_MODELS
from .metering import count_tokens
from .recorder import Outcome, RecordedRequest
from .replies import Call, Part, Reasoning, Refusal, Reply, Scripted, Text, Usage, failed, incomplete
from .server import FakeOpenAI

__all__ = [
    "DEFAULT_MODELS",
    "Ask",
    "Call",
    "Entry",
    "FakeOpenAI",
    "Outcome",
    "Part",
    "Reasoning",
    "RecordedRequest",
    "Refusal",
    "Reply",
    "Scripted",
    "Text",
    "Tool",
    "Usage",
    "count_tokens",
    "failed",
    "incomplete",
]
