"""Usage and costs, asked for by the official client and by hand."""

import csv
import io
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest.mock import AsyncMock

import httpx2
import pytest
from openai import AsyncOpenAI

from app.domain.models.access import ALL_SCOPES, NewKey, Principal
from app.domain.models.conversations import Caller
from app.infrastructure.persistence.engine import build_engine
from app.infrastructure.persistence.tables import run_usage
from app.services.access import LOCAL_ORGANIZATION
from tests.api.serving import Served
from tests.contract.stores.rows import insert_all, usage_row

MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)
START = int(MIDNIGHT.timestamp())
HOUR_S, DAY_S = 3600, 86_400
COSTS = "/v1/organization/costs"
COMPLETIONS = "/v1/organization/usage/completions"
EMBEDDINGS = "/v1/organization/usage/embeddings"


def used(hours: float = 0, **values: Any) -> dict[str, Any]:
    """A metered call of the local organization, so long after the start."""
    own = {"organization_id": LOCAL_ORGANIZATION, "project_id": None, "api_key_id": None, "endpoint": "run"}
    return usage_row(created_at=MIDNIGHT + timedelta(hours=hours), **own | values)


@pytest.fixture
def metered(demo: Served) -> Callable[..., Any]:
    """Record calls as if they had been made."""

    async def record(*rows: dict[str, Any]) -> None:
        engine = build_engine(f"sqlite:///{demo.database}")
        await insert_all(engine, run_usage, rows)
        await engine.dispose()

    return record


@pytest.fixture
async def client(demo: Served) -> AsyncIterator[AsyncOpenAI]:
    """The official client, which validates what it is given as strictly as it can."""
    async with AsyncOpenAI(
        admin_api_key="sk-admin",
        api_key="sk-any",
        base_url="http://localhost:8000/v1",
        http_client=httpx2.AsyncClient(transport=httpx2.ASGITransport(demo.app)),
        max_retries=0,
        _strict_response_validation=True,
    ) as made:
        yield made


async def get(served: Served, path: str, query: str = "", **headers: str) -> httpx2.Response:
    return await served.http.get(f"{path}?start_time={START}{query}", headers=headers)


async def test_completions_in_the_clients_own_types(client: AsyncOpenAI, metered: Callable[..., Any]) -> None:
    await metered(
        used(1, project_id="p1", api_key_id="k1", cost="0.5"),
        used(30, endpoint="chat/completions", agent="", model="gpt-5", accuracy="estimated"),
        used(2, endpoint="embeddings", model="text-embedding-3-small"),
    )
    page = await client.admin.organization.usage.completions(
        start_time=START, end_time=START + 3 * DAY_S, group_by=["model", "project_id", "api_key_id"]
    )
    assert (page.object, page.has_more, page.next_page) == ("page", False, None)
    assert [(bucket.start_time, bucket.end_time, len(bucket.results)) for bucket in page.data] == [
        (START, START + DAY_S, 1),
        (START + DAY_S, START + 2 * DAY_S, 1),
        (START + 2 * DAY_S, START + 3 * DAY_S, 0),
    ]
    (first,), (second,), _ = (bucket.results for bucket in page.data)
    assert first.object == "organization.usage.completions.result"
    assert (first.model, first.project_id, first.api_key_id, first.user_id) == ("gpt-5-mini", "p1", "k1", None)
    assert (first.input_tokens, first.input_cached_tokens, first.input_cache_write_tokens) == (100, 40, 5)
    assert (first.input_uncached_tokens, first.output_tokens, first.num_model_requests) == (55, 10, 1)
    ours = second.to_dict()
    assert (ours["num_unpriced_requests"], ours["num_estimated_requests"], ours["output_reasoning_tokens"]) == (1, 1, 3)


async def test_costs_in_the_clients_own_types(client: AsyncOpenAI, metered: Callable[..., Any]) -> None:
    await metered(used(cost="0.1"), used(cost="0.2"), used(model="gpt-5", endpoint="embeddings", cost=None))
    page = await client.admin.organization.usage.costs(
        start_time=START, end_time=START + DAY_S, group_by=["line_item", "project_id"]
    )
    known, unknown = sorted(page.data[0].results, key=lambda result: str(result.to_dict()["line_item"]), reverse=True)
    assert known.object == unknown.object == "organization.costs.result"
    assert known.amount is not None
    assert (known.line_item, known.amount.value, known.amount.currency) == ("gpt-5-mini", 0.3, "usd")
    assert unknown.amount is not None
    assert (unknown.line_item, unknown.amount.value) == ("gpt-5", None)
    assert (known.to_dict()["num_unpriced_requests"], unknown.to_dict()["num_unpriced_requests"]) == (0, 1)


async def test_embeddings_in_the_clients_own_types(client: AsyncOpenAI, metered: Callable[..., Any]) -> None:
    await metered(used(model="chat"), used(model="text-embedding-3-small", endpoint="embeddings", agent=""))
    page = await client.admin.organization.usage.embeddings(
        start_time=START, end_time=START + HOUR_S, bucket_width="1h", models=["text-embedding-3-small", "chat"]
    )
    (result,) = page.data[0].results
    assert result.object == "organization.usage.embeddings.result"
    assert (result.input_tokens, result.num_model_requests, result.model) == (100, 1, None)


async def test_money_keeps_every_digit(demo: Served, metered: Callable[..., Any]) -> None:
    await metered(used(cost="99999.0000000001"), used(cost="0.0000000002"))
    reply = await get(demo, COSTS, f"&end_time={START + DAY_S}")
    assert '"value":99999.0000000003,' in reply.text
    nothing = used(DAY_S / HOUR_S, cost="0.0")
    await metered(nothing)
    reply = await get(demo, COSTS, f"&end_time={START + 2 * DAY_S}")
    assert '"value":0,' in reply.text


async def test_a_run_of_ours_is_on_the_bill(demo: Served) -> None:
    chatter = await demo.session()
    assert (await chatter.chat()).status_code == 200
    since = int(datetime.now(UTC).timestamp()) - DAY_S
    reply = await demo.http.get(f"{COMPLETIONS}?start_time={since}&group_by[]=agent")
    results = [result for bucket in reply.json()["data"] for result in bucket["results"]]
    (row,) = demo.rows("SELECT sum(input_tokens) AS tokens, max(agent) AS agent FROM agent_run_usage")
    assert [(result["agent"], result["input_tokens"]) for result in results] == [(row["agent"], row["tokens"])]


async def test_the_first_and_last_bucket_are_cut_where_the_range_is(demo: Served, metered: Callable[..., Any]) -> None:
    await metered(used(0.25), used(0.75), used(1.25), used(1.75))
    first = START + HOUR_S // 2
    reply = await demo.http.get(f"{COSTS}?start_time={first}&end_time={first + HOUR_S}&bucket_width=1h")
    assert [
        (bucket["start_time"], bucket["end_time"], bucket["results"][0]["num_model_requests"])
        for bucket in reply.json()["data"]
    ] == [(first, START + HOUR_S, 1), (START + HOUR_S, first + HOUR_S, 1)]


@pytest.mark.parametrize("width_s", [(60, "1m"), (HOUR_S, "1h"), (DAY_S, "1d")])
async def test_pages_go_on_where_the_one_before_ended(
    demo: Served, metered: Callable[..., Any], width_s: tuple[int, str]
) -> None:
    seconds, width = width_s
    await metered(*(used(number * seconds / HOUR_S) for number in range(7)))
    seen: list[tuple[int, int]] = []
    query = f"&bucket_width={width}&limit=3&end_time={START + 7 * seconds}"
    following = ""
    for _ in range(3):
        reply = (await get(demo, COMPLETIONS, query + following)).json()
        seen += [(bucket["start_time"], len(bucket["results"])) for bucket in reply["data"]]
        assert reply["has_more"] is (reply["next_page"] is not None)
        following = f"&page={reply['next_page']}"
    assert not reply["has_more"]
    assert seen == [(START + number * seconds, 1) for number in range(7)]


@pytest.mark.parametrize(
    ("path", "query", "buckets"),
    [
        (COSTS, "", 7),
        (COSTS, "&limit=180", 180),
        (COSTS, "&bucket_width=1h", 24),
        (COMPLETIONS, "", 7),
        (COMPLETIONS, "&limit=31", 31),
        (COMPLETIONS, "&bucket_width=1h", 24),
        (COMPLETIONS, "&bucket_width=1m&limit=1440", 1440),
        (EMBEDDINGS, "&bucket_width=1m", 60),
    ],
)
async def test_a_page_has_as_many_buckets_as_on_the_platform(demo: Served, path: str, query: str, buckets: int) -> None:
    reply = await demo.http.get(f"{path}?start_time=1600000000{query}")
    assert len(reply.json()["data"]) == buckets


async def test_what_has_not_begun_has_no_bucket(demo: Served) -> None:
    now = datetime.now(UTC)
    later = int((now + timedelta(days=2)).timestamp())
    reply = (await demo.http.get(f"{COSTS}?start_time={later}")).json()
    assert reply == {"object": "page", "data": [], "has_more": False, "next_page": None}
    reply = (await demo.http.get(f"{COSTS}?start_time={int(now.timestamp())}&end_time={later}")).json()
    assert len(reply["data"]) <= 2  # midnight may have passed


@pytest.mark.parametrize(
    ("query", "param", "code"),
    [
        ("", "start_time", "missing_required_parameter"),
        ("start_time=x", "start_time", "invalid_value"),
        ("start_time=-1", "start_time", "invalid_value"),
        ("start_time=٣", "start_time", "invalid_value"),
        ("start_time=1e9", "start_time", "invalid_value"),
        ("start_time=99999999999999999999", "start_time", "invalid_value"),
        ("start_time=5&start_time=6", "start_time", "invalid_value"),
        ("start_time=5&end_time=5", "end_time", "invalid_value"),
        ("start_time=5&end_time=y", "end_time", "invalid_value"),
        ("start_time=5&bucket_width=1w", "bucket_width", "invalid_value"),
        ("start_time=5&limit=0", "limit", "invalid_value"),
        ("start_time=5&limit=32", "limit", "invalid_value"),
        ("start_time=5&bucket_width=1m&limit=1441", "limit", "invalid_value"),
        ("start_time=5&page=2", "page", "invalid_value"),
        ("start_time=5&page=page_5", "page", "invalid_value"),
        ("start_time=5&page=page_ffffffffff", "page", "invalid_value"),
        ("start_time=5&end_time=9&page=page_9", "page", "invalid_value"),
        ("start_time=5&group_by[]=colour", "group_by", "invalid_value"),
        ("start_time=5&group_by=service_tier", "group_by", "invalid_value"),
        ("start_time=5&batch=maybe", "batch", "invalid_value"),
        ("start_time=5&format=xml", "format", "invalid_value"),
        ("start_time=5&line_items[]=x", "line_items[]", "unknown_parameter"),
        ("start_time=5&modles=x", "modles", "unknown_parameter"),
        ("start_time=5&" + "&".join(f"models[]=m{number}" for number in range(501)), "models", "invalid_value"),
    ],
)
async def test_nothing_wrong_passes(demo: Served, query: str, param: str, code: str) -> None:
    reply = await demo.http.get(f"{COMPLETIONS}?{query}")
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")
    assert f"'{param}'" in error["message"]


async def test_there_are_no_batch_jobs(demo: Served, metered: Callable[..., Any]) -> None:
    await metered(used())

    async def results(query: str) -> list[Any]:
        reply = (await get(demo, COMPLETIONS, f"&end_time={START + DAY_S}{query}")).json()
        assert len(reply["data"]) == 1
        return reply["data"][0]["results"]

    assert await results("&batch=true") == []
    assert [result["batch"] for result in await results("&batch=false")] == [None]
    assert [result["batch"] for result in await results("&group_by[]=batch")] == [False]


@pytest.mark.parametrize("spelled", ["models", "models[]", "models[0]"])
async def test_filters_however_a_client_spells_lists(demo: Served, metered: Callable[..., Any], spelled: str) -> None:
    await metered(used(model="a"), used(model="b"), used(model="c"))
    reply = await get(demo, COSTS, f"&end_time={START + DAY_S}&{spelled}=a&{spelled}=c&group_by=model")
    assert [result["model"] for result in reply.json()["data"][0]["results"]] == ["a", "c"]


@pytest.mark.parametrize("headers", [{"accept": "text/csv"}, {}])
async def test_csv_for_a_spreadsheet(demo: Served, metered: Callable[..., Any], headers: dict[str, str]) -> None:
    await metered(used(model="a, b", cost="0.10"), used(30, model="c", user_id=None))
    query = "&limit=2&group_by=model&group_by=user_id" + ("" if headers else "&format=csv")
    reply = await get(demo, COSTS, query, **headers)
    assert reply.headers["content-type"] == "text/csv; charset=utf-8"
    assert reply.headers["x-next-page"].startswith("page_")
    rows = list(csv.DictReader(io.StringIO(reply.text)))
    assert [(row["start_time"], row["model"], row["user_id"], row["cost_usd"]) for row in rows] == [
        ("2026-03-01T00:00:00Z", "a, b", "anna", "0.1"),
        ("2026-03-02T00:00:00Z", "c", "", ""),
    ]
    assert [row["unpriced_requests"] for row in rows] == ["0", "1"]
    assert (await get(demo, COSTS, "&format=json", accept="text/csv")).json()["object"] == "page"


@pytest.fixture
def as_principal(demo: Served, monkeypatch: pytest.MonkeyPatch) -> Callable[[Principal], None]:
    """Return what says who asks from now on."""
    return lambda principal: monkeypatch.setattr(demo.container.access, "identify", AsyncMock(return_value=principal))


async def test_another_organizations_usage_is_not_there(
    demo: Served, metered: Callable[..., Any], as_principal: Callable[[Principal], None]
) -> None:
    await metered(used(cost="1"))
    as_principal(Principal(Caller("globex")))
    for path in (COSTS, COMPLETIONS, EMBEDDINGS):
        reply = (await get(demo, path, f"&end_time={START + DAY_S}")).json()
        assert [bucket["results"] for bucket in reply["data"]] == [[]]


async def test_one_user_sees_what_that_user_used(
    demo: Served, metered: Callable[..., Any], as_principal: Callable[[Principal], None]
) -> None:
    await metered(used(user_id="anna"), used(user_id="bert"), used(user_id=None))
    anna = Principal(Caller(LOCAL_ORGANIZATION, "anna"), scopes=frozenset({"usage"}))

    async def requests(principal: Principal, query: str = "") -> list[int]:
        as_principal(principal)
        reply = (await get(demo, COMPLETIONS, f"&end_time={START + DAY_S}{query}")).json()
        return [result["num_model_requests"] for result in reply["data"][0]["results"]]

    assert await requests(anna) == [1]
    assert await requests(anna, "&user_ids[]=bert") == []
    assert await requests(replace(anna, scopes=ALL_SCOPES)) == [3]


@pytest.mark.parametrize("path", [COSTS, COMPLETIONS, EMBEDDINGS])
async def test_only_a_key_with_the_scope_sees_usage(demo: Served, metered: Callable[..., Any], path: str) -> None:
    await metered(used(endpoint="embeddings"), used())

    async def asked_with(*scopes: str, organization: str = LOCAL_ORGANIZATION) -> httpx2.Response:
        issued = await demo.container.keys.create(
            NewKey(organization_id=organization, name="test", scopes=frozenset(scopes))
        )
        return await get(demo, path, f"&end_time={START + DAY_S}", authorization=f"Bearer {issued.secret}")

    assert (await asked_with("read", "write", "admin")).status_code == 403
    assert (await asked_with("usage")).json()["data"][0]["results"] != []
    assert (await asked_with("usage", organization="globex")).json()["data"][0]["results"] == []
    assert (await get(demo, path)).status_code == 401  # now that there are keys


async def test_costs_add_up_to_the_rows_of_runs(demo: Served) -> None:
    """Every digit of every row that runs have left, whatever it is cut into."""
    chatter = await demo.session()
    for text in ("hello", "what is the weather?"):
        await chatter.chat(text)
    await demo.change("UPDATE agent_run_usage SET cost_usd = '0.0000000001' WHERE step = '/m1'")
    rows = demo.rows("SELECT cost_usd, requests FROM agent_run_usage")
    since = int(datetime.now(UTC).timestamp()) - HOUR_S
    reply = await demo.http.get(f"{COSTS}?start_time={since}&bucket_width=1m&limit=120&format=csv&group_by=agent")
    lines = list(csv.DictReader(io.StringIO(reply.text)))
    assert sum(Decimal(line["cost_usd"]) for line in lines if line["cost_usd"]) == sum(
        Decimal(row["cost_usd"]) for row in rows if row["cost_usd"] is not None
    )
    assert sum(int(line["requests"]) for line in lines) == sum(row["requests"] for row in rows)
