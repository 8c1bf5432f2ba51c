"""Usage and costs of an organization over time, in the platform's shapes; what we add stands in fields of its own."""

from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Request
from msgspec import Meta, Raw, Struct
from starlette.responses import Response

from app.api.dependencies import Running
from app.api.json_replies import JsonReply
from app.api.openai.access import UsageAccess
from app.api.openai.usage_queries import UsageRequest, page_name, parameters_of, usage_request
from app.api.openapi import content, failures
from app.bootstrap import Container
from app.domain.models.usage import UsageBucket, UsagePage, UsageResult
from app.services.usage_pages import csv_lines

router = APIRouter(prefix="/v1/organization", tags=["usage"])

NEXT_PAGE: Final = "x-next-page"


_Number = Annotated[Raw, Meta(extra_json_schema={"type": ["number", "null"]})]


class CompletionsResult(Struct, frozen=True):
    """Model calls of one bucket; a field that it is not grouped by is null."""

    object: Literal["organization.usage.completions.result"]
    input_tokens: int
    """Cached ones and those written to the cache included."""
    input_cached_tokens: int
    input_cache_write_tokens: int
    input_uncached_tokens: int
    """Neither read from the cache nor written to it."""
    output_tokens: int
    output_reasoning_tokens: int
    """The part of `output_tokens` that was reasoning."""
    num_model_requests: int
    """Failed and cut ones included."""
    num_unpriced_requests: int
    """Those whose price is not known: they are missing from the costs."""
    num_estimated_requests: int
    """Those whose tokens were counted here, because they were cut before the endpoint told them."""
    project_id: str | None
    user_id: str | None
    api_key_id: str | None
    model: str | None
    agent: str | None
    batch: bool | None
    service_tier: None = None


class EmbeddingsResult(Struct, frozen=True):
    """Embedding calls of one bucket; a field that it is not grouped by is null."""

    object: Literal["organization.usage.embeddings.result"]
    input_tokens: int
    num_model_requests: int
    num_unpriced_requests: int
    num_estimated_requests: int
    project_id: str | None
    user_id: str | None
    api_key_id: str | None
    model: str | None
    agent: str | None


class CostAmount(Struct, frozen=True):
    """Money."""

    value: _Number
    """Exact, in all its digits; null when no call had a known price, and 0 only when nothing was to pay."""
    currency: Literal["usd"] = "usd"


class CostsResult(Struct, frozen=True):
    """Costs of one bucket; a field that it is not grouped by is null."""

    object: Literal["organization.costs.result"]
    amount: CostAmount
    num_model_requests: int
    num_unpriced_requests: int
    """Calls whose price is not known: they are missing from `amount`."""
    line_item: str | None
    """A model: calls are not split into their tokens."""
    project_id: str | None
    user_id: str | None
    api_key_id: str | None
    model: str | None
    agent: str | None
    quantity: None = None


class CompletionsBucket(Struct, frozen=True):
    """A minute, hour or day of UTC, or the part of it that was asked for."""

    object: Literal["bucket"]
    start_time: int
    end_time: int
    """Not included."""
    results: list[CompletionsResult]


class EmbeddingsBucket(Struct, frozen=True):
    """A minute, hour or day of UTC, or the part of it that was asked for."""

    object: Literal["bucket"]
    start_time: int
    end_time: int
    """Not included."""
    results: list[EmbeddingsResult]


class CostsBucket(Struct, frozen=True):
    """A minute, hour or day of UTC, or the part of it that was asked for."""

    object: Literal["bucket"]
    start_time: int
    end_time: int
    """Not included."""
    results: list[CostsResult]


class CompletionsPage(Struct, frozen=True):
    """Neighbouring buckets, empty ones included."""

    object: Literal["page"]
    data: list[CompletionsBucket]
    has_more: bool
    next_page: str | None


class EmbeddingsPage(Struct, frozen=True):
    """Neighbouring buckets, empty ones included."""

    object: Literal["page"]
    data: list[EmbeddingsBucket]
    has_more: bool
    next_page: str | None


class CostsPage(Struct, frozen=True):
    """Neighbouring buckets, empty ones included."""

    object: Literal["page"]
    data: list[CostsBucket]
    has_more: bool
    next_page: str | None


def _described(page: type[Struct]) -> dict[int | str, dict[str, Any]]:
    csv: dict[str, Any] = {"text/csv": {"schema": {"type": "string"}}}
    header = {"schema": {"type": "string"}, "description": "CSV only: the page after this one, when there is one."}
    done = {"description": "A page.", "headers": {NEXT_PAGE: header}, "content": content(page) | csv}
    return {200: done, **failures(400, 401, 403, 503)}


@router.get(
    "/usage/completions",
    summary="Usage of models over time",
    responses=_described(CompletionsPage),
    openapi_extra={"parameters": parameters_of("completions")},
    response_class=JsonReply,
    response_model=None,
)
async def usage_of_completions(request: Request, access: UsageAccess, container: Running) -> Response:
    """Sum what model calls used: those of runs, and those that were passed through to a model."""
    asked = usage_request(request, access, "completions")
    page = await _page(container, asked)
    data = [
        CompletionsBucket("bucket", *_times(bucket), [_completions(result, asked) for result in bucket.results])
        for bucket in page.buckets
    ]
    return _reply(page, asked, CompletionsPage("page", data, page.next_start is not None, _next(page)))


@router.get(
    "/usage/embeddings",
    summary="Usage of embeddings over time",
    responses=_described(EmbeddingsPage),
    openapi_extra={"parameters": parameters_of("embeddings")},
    response_class=JsonReply,
    response_model=None,
)
async def usage_of_embeddings(request: Request, access: UsageAccess, container: Running) -> Response:
    """Sum what embedding calls used."""
    asked = usage_request(request, access, "embeddings")
    page = await _page(container, asked)
    data = [
        EmbeddingsBucket("bucket", *_times(bucket), [_embeddings(result) for result in bucket.results])
        for bucket in page.buckets
    ]
    return _reply(page, asked, EmbeddingsPage("page", data, page.next_start is not None, _next(page)))


@router.get(
    "/costs",
    summary="Costs over time",
    responses=_described(CostsPage),
    openapi_extra={"parameters": parameters_of("costs")},
    response_class=JsonReply,
    response_model=None,
)
async def costs(request: Request, access: UsageAccess, container: Running) -> Response:
    """Sum what all calls cost; what has no known price is counted, and missing from the sum."""
    asked = usage_request(request, access, "costs")
    page = await _page(container, asked)
    data = [
        CostsBucket("bucket", *_times(bucket), [_costs(result, asked) for result in bucket.results])
        for bucket in page.buckets
    ]
    return _reply(page, asked, CostsPage("page", data, page.next_start is not None, _next(page)))


async def _page(container: Container, asked: UsageRequest) -> UsagePage:
    page = await container.usage.over_time(asked.query, buckets=asked.buckets)
    if not asked.nothing:
        return page
    return UsagePage([UsageBucket(bucket.start, bucket.end, ()) for bucket in page.buckets], page.next_start)


def _reply(page: UsagePage, asked: UsageRequest, reply: Struct) -> Response:
    following = _next(page)
    if not asked.as_csv:
        return JsonReply(reply)
    headers = {} if following is None else {NEXT_PAGE: following}
    lines = "".join(csv_lines(page, asked.query.group_by))
    # Half an emoji in a name is no text that a spreadsheet could read.
    body = lines.encode("utf-8", "replace")
    return Response(body, headers=headers, media_type="text/csv; charset=utf-8")


def _next(page: UsagePage) -> str | None:
    return None if page.next_start is None else page_name(page.next_start)


def _times(bucket: UsageBucket) -> tuple[int, int]:
    return int(bucket.start.timestamp()), int(bucket.end.timestamp())


def _completions(result: UsageResult, asked: UsageRequest) -> CompletionsResult:
    tokens, fields = result.tokens, result.fields
    return CompletionsResult(
        object="organization.usage.completions.result",
        input_tokens=tokens.input_tokens,
        input_cached_tokens=tokens.cached_tokens,
        input_cache_write_tokens=tokens.cache_write_tokens,
        input_uncached_tokens=tokens.input_tokens - tokens.cached_tokens - tokens.cache_write_tokens,
        output_tokens=tokens.output_tokens,
        output_reasoning_tokens=tokens.reasoning_tokens,
        num_model_requests=tokens.requests,
        num_unpriced_requests=result.unpriced_requests,
        num_estimated_requests=result.estimated_requests,
        project_id=fields.get("project_id"),
        user_id=fields.get("user_id"),
        api_key_id=fields.get("api_key_id"),
        model=fields.get("model"),
        agent=fields.get("agent"),
        batch=False if "batch" in asked.groups else None,
    )


def _embeddings(result: UsageResult) -> EmbeddingsResult:
    fields = result.fields
    return EmbeddingsResult(
        object="organization.usage.embeddings.result",
        input_tokens=result.tokens.input_tokens,
        num_model_requests=result.tokens.requests,
        num_unpriced_requests=result.unpriced_requests,
        num_estimated_requests=result.estimated_requests,
        project_id=fields.get("project_id"),
        user_id=fields.get("user_id"),
        api_key_id=fields.get("api_key_id"),
        model=fields.get("model"),
        agent=fields.get("agent"),
    )


def _costs(result: UsageResult, asked: UsageRequest) -> CostsResult:
    fields = result.fields
    return CostsResult(
        object="organization.costs.result",
        amount=CostAmount(_amount(result.cost_usd)),
        num_model_requests=result.tokens.requests,
        num_unpriced_requests=result.unpriced_requests,
        line_item=fields.get("model") if "line_item" in asked.groups else None,
        project_id=fields.get("project_id"),
        user_id=fields.get("user_id"),
        api_key_id=fields.get("api_key_id"),
        model=fields.get("model") if "model" in asked.groups else None,
        agent=fields.get("agent"),
    )


def _amount(cost: Decimal | None) -> Raw:
    """Return a JSON number with every digit: a float would lose some."""
    return Raw(b"null" if cost is None else f"{cost.normalize():f}".encode())
