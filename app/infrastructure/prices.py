"""Prices of models from the list that genai-prices ships; no network, no updates while running."""

from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from importlib import import_module
from importlib.metadata import version

from genai_prices.data_snapshot import DataSnapshot
from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

from app.domain.models.usage import Price, TokenUsage

MAX_MODEL_CHARS = 255
_COST_QUANTUM = Decimal("1e-10")  # what the column of the cost holds
_MILLION = 1_000_000
# A literal of 1.6 MB: type checkers would spend four fifths of their time on it.
_PROVIDERS: list[Provider] = import_module("genai_prices.data").providers


class GenaiPriceList:
    """PriceList over the bundled list: the price that was valid at the time of the call, by its tier.

    Names are resolved by genai-prices: plain (`gpt-5-mini`), dated (`gpt-5-mini-2025-08-07`), or with a provider in
    front (`anthropic/claude-sonnet-4-5`, also behind the SDK's `litellm/`). Tokens are priced as text tokens, and fees
    beside tokens (web searches, storage) are not known here.
    """

    def __init__(self) -> None:
        """Name the list by its installed version."""
        self._version = f"genai-prices {version('genai-prices')}"

    def price(self, model: str, tokens: TokenUsage, at: datetime) -> Price | None:
        """Return what one call cost; None when the model, or the price of tokens it used, is not in the list."""
        found = _find_model(model) if len(model) <= MAX_MODEL_CHARS else None
        if found is None:
            return None
        cost = _cost(found.get_prices(at), tokens)
        return None if cost is None else Price(cost, self._version)


@lru_cache(maxsize=1024)
def _find_model(name: str) -> ModelInfo | None:
    """Look a name up; neither tokens nor time matter here.

    A snapshot remembers every name it was ever asked for, without bound, so each look-up gets a new one: it is only a
    view of the list. `litellm` is the library's word for names with a provider in front.
    """
    name = name.removeprefix("litellm/")
    snapshot = DataSnapshot(providers=_PROVIDERS, from_auto_update=False)
    try:
        _, model = snapshot.find_provider_model(name, None, "litellm" if "/" in name else None, None)
    except LookupError:
        return None
    return model if model.prices else None


def _cost(prices: ModelPrice, tokens: TokenUsage) -> Decimal | None:
    """Price the tokens as `ModelPrice.calc_price` does, at a fraction of its 100 µs; a test compares the two.

    Unlike it, a model without a token price (the list knows the model, but no price) is unknown and not free.
    """
    reads = tokens.cached_tokens if prices.cache_read_mtok is not None else 0
    writes = tokens.cache_write_tokens if prices.cache_write_mtok is not None else 0
    reasoning = tokens.reasoning_tokens if prices.output_reasoning_mtok is not None else 0
    parts = (
        (prices.input_mtok, tokens.input_tokens - reads - writes),
        (prices.cache_read_mtok, reads),
        (prices.cache_write_mtok, writes),
        (prices.output_mtok, tokens.output_tokens - reasoning),
        (prices.output_reasoning_mtok, reasoning),
    )
    if prices.input_mtok is None and prices.output_mtok is None:
        return None
    cost = Decimal(0)
    for price, count in parts:
        if count < 0 or (price is None and count > 0):
            return None
        if price is not None:
            cost += _rate(price, tokens.input_tokens) * count / _MILLION
    if prices.requests_kcount is not None:
        cost += _rate(prices.requests_kcount, tokens.input_tokens) / 1000
    return cost.quantize(_COST_QUANTUM)


def _rate(price: Decimal | TieredPrices, input_tokens: int) -> Decimal:
    """Return the rate for a request of that size: crossing a tier's start changes the rate of all its tokens."""
    if isinstance(price, Decimal):
        return price
    reached = [tier.price for tier in price.tiers if input_tokens > tier.start]
    return reached[-1] if reached else price.base
