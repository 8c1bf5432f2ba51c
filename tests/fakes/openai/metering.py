"""The rule of the usage numbers, simple enough to compute in a test by hand.

A token is a word: a run of characters without white space. Counted are the instructions and every entry of the context
(`Entry.text`), not the tool definitions, roles or ids; an input is at least 1 token.

* `cached` is everything up to the last entry that the model itself made, instructions included: the previous call has
  already read it. It is 0 when the context holds nothing of the model. Tool outputs after the last call are new.
* `cache_write` is the rest: `input - cached`.
* `output` is the words of texts, refusals, call names, call arguments as sent, and reasoning summaries;
  `reasoning` is the words of the summaries alone.
"""

from __future__ import annotations

from .asks import Ask
from .replies import Call, Reasoning, Reply, Usage
from .wire import JsonObject


def count_tokens(text: str) -> int:
    """The tokens of one text: its words."""
    return len(text.split())


def measure(ask: Ask, reply: Reply) -> Usage:
    """The usage of one model call; what the script says wins."""
    if reply.usage is not None:
        return reply.usage
    last_made = max((i for i, entry in enumerate(ask.entries) if entry.speaker == "model"), default=-1)
    instructions = count_tokens(ask.instructions)
    cached = 0
    if last_made >= 0:
        cached = instructions + sum(count_tokens(entry.text) for entry in ask.entries[: last_made + 1])
    total = max(1, instructions + sum(count_tokens(entry.text) for entry in ask.entries))
    reasoning = sum(count_tokens(part.summary) for part in reply.parts if isinstance(part, Reasoning))
    output = reasoning
    for part in reply.parts:
        match part:
            case Reasoning():
                pass
            case Call():
                output += count_tokens(part.name) + count_tokens(part.wire_arguments)
            case _:
                output += count_tokens(part.text)
    return Usage(input=total, output=output, cached=cached, cache_write=total - cached, reasoning=reasoning)


def responses_usage(usage: Usage) -> JsonObject:
    """The `usage` of a response; `cache_write_tokens` is required by the strict 3.x client."""
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.cache_write},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.input + usage.output,
    }


def chat_usage(usage: Usage) -> JsonObject:
    """The `usage` of a chat completion."""
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached,
            "cache_write_tokens": usage.cache_write,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
