"""The SDK's usage to ours, and a count of our own for calls that were cut before the endpoint could report."""

from base64 import b64decode
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import tiktoken
from agents import Usage
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails

from app.domain.models.usage import TokenUsage
from app.infrastructure.providers.openai import wire_json

_DATA = Path(__file__).parent / "data" / "o200k_base.tiktoken"
# The split pattern of o200k_base as tiktoken publishes it; its own loader would fetch the ranks over the network.
_PATTERN = "|".join(
    [
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""\p{N}{1,3}""",
        r""" ?[^\s\p{L}\p{N}]+[\r\n/]*""",
        r"""\s*[\r\n]+""",
        r"""\s+(?!\S)""",
        r"""\s+""",
    ]
)
_MAX_COUNT = 2**31 - 1
_MAX_COUNTED_CHARS = 2_000_000
"""Longer texts are counted by their first part and scaled: an estimate need not cost seconds."""


def token_usage(usage: Usage) -> TokenUsage:
    """Return the SDK's usage of one finished call as ours; a call counts as one request even if it says none."""
    return TokenUsage(
        requests=max(1, _count(usage.requests)),
        input_tokens=_count(usage.input_tokens),
        cached_tokens=_count(usage.input_tokens_details.cached_tokens),
        cache_write_tokens=_count(usage.input_tokens_details.cache_write_tokens),
        output_tokens=_count(usage.output_tokens),
        reasoning_tokens=_count(usage.output_tokens_details.reasoning_tokens),
    )


def _count(told: int) -> int:
    """Return a count that a row can hold: an endpoint may report any number."""
    return min(max(told, 0), _MAX_COUNT)


def sdk_usage(tokens: TokenUsage) -> Usage:
    """Return the usage of one call as the SDK knows it: `token_usage` the other way."""
    return Usage(
        requests=tokens.requests,
        input_tokens=tokens.input_tokens,
        output_tokens=tokens.output_tokens,
        total_tokens=tokens.total_tokens,
        input_tokens_details=InputTokensDetails(
            cached_tokens=tokens.cached_tokens, cache_write_tokens=tokens.cache_write_tokens
        ),
        output_tokens_details=OutputTokensDetails(reasoning_tokens=tokens.reasoning_tokens),
    )


def estimated_usage(instructions: str | None, request: str | Sequence[Any], output: str) -> TokenUsage:
    """Count the tokens of a call that was cut: the whole request, and the output that had arrived."""
    wire = request if isinstance(request, str) else wire_json.encode(request)
    return TokenUsage(
        requests=1,
        input_tokens=count_tokens(instructions or "") + count_tokens(wire),
        output_tokens=count_tokens(output),
    )


def count_tokens(text: str) -> int:
    """Return the number of tokens of a text in the o200k_base encoding."""
    counted = text[:_MAX_COUNTED_CHARS]
    if not counted:
        return 0
    tokens = len(_encoding().encode(counted, disallowed_special=()))
    return tokens if len(counted) == len(text) else round(tokens * len(text) / len(counted))


@lru_cache(maxsize=1)
def _encoding() -> tiktoken.Encoding:
    ranks: dict[bytes, int] = {}
    for line in _DATA.read_bytes().splitlines():
        token, rank = line.split()
        ranks[b64decode(token)] = int(rank)
    return tiktoken.Encoding("o200k_base", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens={})
