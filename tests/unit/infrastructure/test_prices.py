from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.metadata import version

import pytest
from genai_prices import Usage
from genai_prices.data import providers
from genai_prices.types import ModelPrice, TieredPrices

from app.domain.models.usage import Price, TokenUsage
from app.infrastructure import prices
from app.infrastructure.prices import GenaiPriceList

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SIZES = [(1000, 0, 0, 50, 0), (1000, 100, 30, 50, 20), (300_000, 200_000, 1_000, 5_000, 4_999), (7, 7, 0, 0, 0)]


def tokens(read: int, cached: int, written: int, out: int, reasoning: int) -> TokenUsage:
    return TokenUsage(1, read, cached, written, out, reasoning)


def all_prices() -> list[ModelPrice]:
    found: list[ModelPrice] = []
    for provider in providers:
        for model in provider.models:
            found += [model.prices] if isinstance(model.prices, ModelPrice) else [one.prices for one in model.prices]
    return found


@pytest.mark.parametrize("size", SIZES)
def test_costs_are_those_of_the_library_for_every_model_of_its_list(size: tuple[int, int, int, int, int]) -> None:
    read, cached, written, out, reasoning = size
    usage = Usage(
        input_tokens=read,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        output_tokens=out,
        output_reasoning_tokens=reasoning,
    )
    compared = 0
    for price in all_prices():
        if price.input_mtok is None or price.output_mtok is None:
            continue
        expected = price.calc_price(usage)["total_price"].quantize(Decimal("1e-10"))
        assert prices._cost(price, tokens(*size)) == expected, price
        compared += 1
    assert compared > 500


def test_a_call_is_priced_with_cached_and_written_tokens() -> None:
    listed = GenaiPriceList()
    plain = listed.price("claude-sonnet-4-5", tokens(1000, 0, 0, 100, 0), NOW)
    cached = listed.price("claude-sonnet-4-5", tokens(1000, 400, 100, 100, 50), NOW)
    name = f"genai-prices {version('genai-prices')}"
    assert plain == Price(Decimal("0.0045"), name)
    assert cached == Price(Decimal("0.003495"), name)


def test_the_tier_of_the_request_counts() -> None:
    listed = GenaiPriceList()
    costs = [listed.price("claude-sonnet-4-5", tokens(size, 0, 0, 0, 0), NOW) for size in (200_000, 200_001)]
    assert [cost and cost.cost_usd for cost in costs] == [Decimal("0.6"), Decimal("1.200006")]


def test_the_time_of_the_call_counts_although_the_model_is_remembered() -> None:
    dated = next(
        (provider.id, model, one.constraint.start_date)
        for provider in providers
        for model in provider.models
        if isinstance(model.prices, list)
        for one in model.prices
        if hasattr(one.constraint, "start_date")
        and isinstance(one.prices.input_mtok, Decimal)
        and one.prices.input_mtok != model.get_prices(datetime(2020, 1, 1, tzinfo=UTC)).input_mtok
    )
    provider_id, model, start = dated
    switch = datetime.combine(start, datetime.min.time(), UTC)
    listed, size = GenaiPriceList(), tokens(1_000_000, 0, 0, 0, 0)
    for at in (switch - timedelta(seconds=1), switch, switch - timedelta(seconds=1)):
        expected = model.get_prices(at).calc_price(Usage(input_tokens=1_000_000))["total_price"]
        found = listed.price(f"{provider_id}/{model.id}", size, at)
        assert found is not None
        assert found.cost_usd == expected


@pytest.mark.parametrize(
    ("name", "same_as"),
    [
        ("gpt-5-mini-2025-08-07", "gpt-5-mini"),
        ("GPT-5-mini", "gpt-5-mini"),
        ("openai/gpt-5-mini", "gpt-5-mini"),
        ("litellm/openai/gpt-5-mini", "gpt-5-mini"),
        ("gpt-5.2-20251211", "gpt-5.2"),
        ("anthropic/claude-sonnet-4-5", "claude-sonnet-4-5"),
    ],
)
def test_names_are_resolved(name: str, same_as: str) -> None:
    listed, size = GenaiPriceList(), tokens(1000, 10, 0, 10, 0)
    assert listed.price(name, size, NOW) == listed.price(same_as, size, NOW) is not None


@pytest.mark.parametrize(
    "name", ["demo", "", "gpt-nope", "nope/nope", "/", "openai/", "litellm/", "nul\x00", "half\ud83d", "x" * 100_000]
)
def test_unknown_models_have_no_price(name: str) -> None:
    assert GenaiPriceList().price(name, tokens(1, 0, 0, 1, 0), NOW) is None


def test_a_model_that_is_listed_without_a_price_is_not_free() -> None:
    assert prices._cost(ModelPrice(), tokens(10, 0, 0, 10, 0)) is None
    only_input = ModelPrice(input_mtok=Decimal(1))
    assert prices._cost(only_input, tokens(10, 0, 0, 0, 0)) == Decimal("0.00001")
    assert prices._cost(only_input, tokens(10, 0, 0, 1, 0)) is None
    assert prices._cost(ModelPrice(input_mtok=Decimal(0), output_mtok=Decimal(0)), tokens(9, 0, 0, 9, 0)) == 0


@pytest.mark.parametrize("size", [(5, 10, 0, 1, 0), (-5, 0, 0, 1, 0), (10, 6, 6, 1, 0), (1, 0, 0, -1, 0)])
def test_counts_that_contradict_each_other_have_no_price(size: tuple[int, int, int, int, int]) -> None:
    assert GenaiPriceList().price("claude-sonnet-4-5", tokens(*size), NOW) is None


def test_a_price_a_request_is_part_of_the_cost() -> None:
    price = ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(1), requests_kcount=Decimal(5))
    assert prices._cost(price, tokens(0, 0, 0, 0, 0)) == Decimal("0.005")


def test_rates_of_tiers_start_behind_their_start() -> None:
    from genai_prices.types import Tier

    tiers = TieredPrices(base=Decimal(1), tiers=[Tier(start=20, price=Decimal(3)), Tier(start=10, price=Decimal(2))])
    assert [prices._rate(tiers, size) for size in (0, 10, 11, 20, 21)] == [1, 1, 2, 2, 3]


def test_names_are_not_remembered_without_bound() -> None:
    listed, size = GenaiPriceList(), tokens(1, 0, 0, 1, 0)
    for number in range(1100):
        listed.price(f"no-such-model-{number}", size, NOW)
    info = prices._find_model.cache_info()
    assert info.currsize <= (info.maxsize or 0)
