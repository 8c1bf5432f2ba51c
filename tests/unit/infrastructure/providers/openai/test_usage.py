"""Token counts: the SDK's numbers as ours, and our own count with the real o200k vocabulary."""

import hashlib
import inspect
import time
from typing import Any

import pytest
from agents import Usage
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails
from tiktoken_ext import openai_public

from app.domain.models.usage import TokenUsage
from app.infrastructure.providers.openai import usage
from app.infrastructure.providers.openai.usage import count_tokens, estimated_usage, token_usage


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("a", 1),
        ("hello world", 2),
        ("The quick brown fox jumps over the lazy dog.", 10),
        ("antidisestablishmentarianism", 6),
        ("1234567890", 4),
        ("2 + 2 = 4", 7),
        ("お誕生日おめでとう", 8),
        ("<|endoftext|>", 7),
        ("\ud83d", 1),
    ],
)
def test_known_counts(text: str, tokens: int) -> None:
    assert count_tokens(text) == tokens


def test_the_vocabulary_and_its_split_are_tiktoken_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest is the one that tiktoken checks its own download against."""
    source = inspect.getsource(openai_public.o200k_base)
    assert hashlib.sha256(usage._DATA.read_bytes()).hexdigest() in source
    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", lambda *_args, **_kwargs: {})
    assert openai_public.o200k_base()["pat_str"] == usage._PATTERN


def test_chinese_is_counted_by_its_tokens_not_by_a_rule_of_thumb() -> None:
    text = "今天天气很好我们去公园散步吧好吗"
    assert len(text) == 16
    assert 8 <= count_tokens(text) <= 16
    assert count_tokens(text) != len(text) // 4


def test_a_very_long_text_is_counted_by_its_first_part() -> None:
    words = "many words " * 300_000
    began = time.monotonic()
    counted = count_tokens(words)
    assert time.monotonic() - began < 10
    assert abs(counted - 600_000) < 6_000


def test_the_sdk_s_usage() -> None:
    given = Usage(
        requests=1,
        input_tokens=10,
        output_tokens=5,
        total_tokens=15,
        input_tokens_details=InputTokensDetails(cached_tokens=4, cache_write_tokens=3),
        output_tokens_details=OutputTokensDetails(reasoning_tokens=2),
    )
    assert token_usage(given) == TokenUsage(1, 10, 4, 3, 5, 2)
    assert token_usage(Usage()).requests == 1


@pytest.mark.parametrize(
    "request_",
    ["hello world", [{"role": "user", "content": "hello world"}], [{"content": "odd \ud83d"}], [{"content": object()}]],
)
def test_an_estimate_counts_the_whole_request_and_what_had_arrived(request_: Any) -> None:
    estimate = estimated_usage("Be brief.", request_, "an answer that was")
    assert estimate.requests == 1
    assert estimate.input_tokens >= count_tokens("Be brief.") + 2
    assert estimate.output_tokens == count_tokens("an answer that was")


def test_a_tool_s_output_counts_in_an_estimate() -> None:
    long = [{"type": "function_call_output", "call_id": "c", "output": "word " * 10_000}]
    assert estimated_usage(None, long, "").input_tokens > 9_000
