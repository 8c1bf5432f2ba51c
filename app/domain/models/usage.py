"""What model calls used and what they cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

Accuracy = Literal["exact", "estimated"]
"""`exact`: the endpoint reported it. `estimated`: the call was cut before it could, tokens were counted here."""

CallOutcome = Literal["success", "error", "timeout", "cancelled"]


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens of one or several model calls. Zero means none; every field includes all calls it sums over."""

    requests: int = 0
    """Model calls, failed and cut ones included."""
    input_tokens: int = 0
    """All input tokens, cached ones included."""
    cached_tokens: int = 0
    """The part of `input_tokens` that was read from the provider's cache."""
    cache_write_tokens: int = 0
    """The part of `input_tokens` that was written to the provider's cache."""
    output_tokens: int = 0
    """All output tokens, reasoning included."""
    reasoning_tokens: int = 0
    """The part of `output_tokens` that was reasoning."""

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: "TokenUsage") -> "TokenUsage":
        """Sum field by field."""
        return TokenUsage(
            requests=self.requests + other.requests,
            input_tokens=self.input_tokens + other.input_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True, slots=True)
class Price:
    """What one model call cost, and by which price list."""

    cost_usd: Decimal
    version: str
    """The price list and its version, e.g. `genai-prices 0.2.3`."""


@dataclass(frozen=True, slots=True)
class CallUsage:
    """One metered model call: a row of `agent_run_usage`."""

    step: str
    """The path key of the call in its run, e.g. `/m1` or `/t:call_1/m1`."""
    agent: str
    model: str
    outcome: CallOutcome
    accuracy: Accuracy
    tokens: TokenUsage
    started_at: datetime
    latency_ms: int
    """From the request to the last byte or the failure."""
    first_token_ms: int | None
    """From the request to the first delta; None when the call was not streamed or gave none."""
    response_id: str | None = None
    price: Price | None = None
    """None when the price of the model is not known; never zero for that reason."""


UsageGrouping = Literal["model", "agent", "user", "organization", "day"]


@dataclass(frozen=True, slots=True)
class UsageGroup:
    """Usage summed over one value of a grouping."""

    key: str | None
    """The value: a model, an agent, a user, an organization, or a day as `YYYY-MM-DD` (UTC); None: of none."""
    tokens: TokenUsage
    cost_usd: Decimal | None
    """The sum over priced calls; None when none of them had a price."""
    unpriced_requests: int
    """Calls whose price is not known; they are missing from `cost_usd`."""
    estimated_requests: int
    """Calls whose tokens were counted here because they were cut."""


BucketWidth = Literal["1m", "1h", "1d"]
"""Whole minutes, hours or days of UTC."""

UsageField = Literal["project_id", "user_id", "api_key_id", "model", "agent"]
"""What usage over time is grouped and filtered by."""

UsageKind = Literal["all", "completions", "embeddings"]
"""`completions`: model calls that answer in words, of runs and of clients that call a model through us."""


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which part of an organization's usage, and how it is summed."""

    organization_id: str
    start: datetime
    """Included."""
    end: datetime
    """Not included."""
    width: BucketWidth = "1d"
    kind: UsageKind = "all"
    group_by: tuple[UsageField, ...] = ()
    """Empty: one sum a bucket."""
    only: tuple[tuple[UsageField, frozenset[str]], ...] = ()
    """Each names the values that a field may have; all must hold."""


@dataclass(frozen=True, slots=True)
class UsageResult:
    """Usage of one bucket, summed over one combination of what it is grouped by."""

    bucket_start: datetime
    """The start of the minute, hour or day (UTC), even when the query begins later."""
    fields: Mapping[UsageField, str | None]
    """The values it is grouped by; None: none was recorded, as the user of a call that was made for no user."""
    tokens: TokenUsage
    cost_usd: Decimal | None
    """The sum over priced calls; None when none of them had a price."""
    unpriced_requests: int
    """Calls whose price is not known; they are missing from `cost_usd`."""
    estimated_requests: int
    """Calls whose tokens were counted here because they were cut."""


@dataclass(frozen=True, slots=True)
class UsageBucket:
    """A minute, hour or day, or the part of it that was asked for."""

    start: datetime
    end: datetime
    """Not included."""
    results: Sequence[UsageResult]
    """The most tokens first; empty when nothing was used."""


@dataclass(frozen=True, slots=True)
class UsagePage:
    """Neighbouring buckets, empty ones included."""

    buckets: Sequence[UsageBucket]
    next_start: datetime | None
    """Where the next page begins; None: this is the last one."""


@dataclass(frozen=True, slots=True)
class UsageStats:
    """The totals of seed 001's `getUsageStats()`."""

    total_prompt_tokens: int
    total_completion_tokens: int
    total_tokens: int
    total_cost: Decimal | None
    """In USD; None when no call had a known price."""
    request_count: int
    average_tokens_per_request: float
    """0.0 when there was no request."""
