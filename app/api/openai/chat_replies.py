"""Chat completions as JSON: the whole answer, and what its chunks share with it."""

from collections.abc import Sequence
from typing import Any, Final

from app.api.openai.chat_answers import ChatAnswer, ChatEnd, StopCutter
from app.api.openai.response_ids import ResponseId
from app.domain.models.usage import TokenUsage

_PREFIX: Final = "chatcmpl-"


def completion_id(run_id: str) -> str:
    """Return the id of the completion whose first choice a run makes."""
    return f"{_PREFIX}{ResponseId(run_id).hex}"


def completion(run_id: str, model: str, answers: Sequence[ChatAnswer], stops: Sequence[str]) -> dict[str, Any]:
    """Return a whole completion; all its runs have ended well."""
    ends = [answer.end for answer in answers if answer.end is not None]
    return {
        "id": completion_id(run_id),
        "object": "chat.completion",
        "created": ResponseId(run_id).created_at,
        "model": model,
        "choices": [
            _choice(index, answer, end, stops) for index, (answer, end) in enumerate(zip(answers, ends, strict=True))
        ],
        "usage": usage_object(sum((end.usage for end in ends), TokenUsage())),
        "system_fingerprint": None,
    }


def usage_object(tokens: TokenUsage) -> dict[str, Any]:
    """Return a completion's `usage`: all model calls of its runs."""
    return {
        "prompt_tokens": tokens.input_tokens,
        "completion_tokens": tokens.output_tokens,
        "total_tokens": tokens.total_tokens,
        "prompt_tokens_details": {
            "audio_tokens": 0,
            "cached_tokens": tokens.cached_tokens,
            "cache_write_tokens": tokens.cache_write_tokens,
        },
        "completion_tokens_details": {
            "accepted_prediction_tokens": 0,
            "audio_tokens": 0,
            "reasoning_tokens": tokens.reasoning_tokens,
            "rejected_prediction_tokens": 0,
        },
    }


def _choice(index: int, answer: ChatAnswer, end: ChatEnd, stops: Sequence[str]) -> dict[str, Any]:
    text = StopCutter(stops).passed("".join(answer.texts), last=True)
    refusal = "".join(answer.refusals) or None
    message = {
        "role": "assistant",
        "content": None if not text and (answer.calls or refusal) else text,
        "refusal": refusal,
        # What a stop has cut off has no sources any more.
        "annotations": [one for one in answer.annotations if one["url_citation"]["end_index"] <= len(text)],
    }
    return {
        "index": index,
        "message": {**message, "tool_calls": answer.calls} if answer.calls else message,
        "logprobs": None,
        "finish_reason": end.finish_reason,
    }
