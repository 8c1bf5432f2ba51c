"""What clients ask of usage and costs: the platform's query parameters, read and checked one by one."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeVar, get_args

from starlette.requests import Request

from app.api.errors import HttpError
from app.domain.models.access import Principal
from app.domain.models.usage import BucketWidth, UsageField, UsageKind, UsageQuery

Report = Literal["completions", "embeddings", "costs"]

_Value = TypeVar("_Value", bound=str)

MAX_TIME_S: Final = 100_000_000_000
"""Some 3,000 years from now: below the calendar's end."""
MAX_VALUES: Final = 500
"""Of one filter."""

_INDEX: Final = re.compile(r"\[[0-9]*\]$")
_PAGE: Final = re.compile(r"page_([0-9a-f]{1,10})")
_KINDS: Final[Mapping[Report, UsageKind]] = {"completions": "completions", "embeddings": "embeddings", "costs": "all"}
_FILTERS: Final[Mapping[str, UsageField]] = {
    "project_ids": "project_id",
    "user_ids": "user_id",
    "api_key_ids": "api_key_id",
    "models": "model",
    "agents": "agent",
    "line_items": "model",
}
_LIMITS: Final[Mapping[BucketWidth, tuple[int, int]]] = {"1d": (7, 31), "1h": (24, 168), "1m": (60, 1440)}
"""How many buckets a page has: what it has when nothing is said, and at most."""
_COST_DAYS: Final = (7, 180)

_FIELDS: Final[tuple[UsageField, ...]] = get_args(UsageField)
_GROUPS: Final[Mapping[Report, Sequence[str]]] = {
    "completions": (*_FIELDS, "batch"),
    "embeddings": _FIELDS,
    "costs": (*_FIELDS, "line_item"),
}
_LISTS: Final[Mapping[Report, Sequence[str]]] = {
    report: ("group_by", *(name for name in _FILTERS if report == "costs" or name != "line_items"))
    for report in get_args(Report)
}
_SINGLE: Final[Mapping[Report, Sequence[str]]] = {
    "completions": ("start_time", "end_time", "bucket_width", "limit", "page", "format", "batch"),
    "embeddings": ("start_time", "end_time", "bucket_width", "limit", "page", "format"),
    "costs": ("start_time", "end_time", "bucket_width", "limit", "page", "format"),
}


@dataclass(frozen=True, slots=True)
class UsageRequest:
    """A request for usage or costs, understood."""

    query: UsageQuery
    buckets: int
    """Most buckets of the page."""
    groups: frozenset[str]
    """What it is grouped by, in the client's words."""
    as_csv: bool
    nothing: bool
    """It asks only for batch jobs, and there are none here."""


def usage_request(request: Request, access: Principal, report: Report) -> UsageRequest:
    """Return what a request asks for; someone bound to a user sees that user's usage only, unless an administrator.

    Raises:
        HttpError: a parameter is missing, unknown, given twice, or has a wrong value (400); it is named.
    """
    single, lists = _parameters(request, report)
    widths: tuple[BucketWidth, ...] = get_args(BucketWidth)
    width = _one_of(single, "bucket_width", widths) or "1d"
    groups = lists.get("group_by", [])
    for name in groups:
        if name not in _GROUPS[report]:
            raise _invalid("group_by", f"one of {', '.join(_GROUPS[report])}")
    only: list[tuple[UsageField, frozenset[str]]] = [
        (_FILTERS[name], frozenset(values)) for name, values in lists.items() if name != "group_by"
    ]
    caller = access.caller
    if caller.user_id is not None and "admin" not in access.scopes:
        only.append(("user_id", frozenset({caller.user_id})))
    start = _moment(single, "start_time")
    if start is None:
        raise HttpError(400, "missing_required_parameter", "'start_time' is required.", param="start_time")
    end = _moment(single, "end_time")
    if end is not None and end <= start:
        raise _invalid("end_time", "a time after start_time")
    query = UsageQuery(
        caller.organization_id,
        _page_start(single, start, end),
        end or datetime.fromtimestamp(MAX_TIME_S, UTC),
        width,
        _KINDS[report],
        tuple(field for field in _FIELDS if field in groups or (field == "model" and "line_item" in groups)),
        tuple(only),
    )
    given = _one_of(single, "format", ("csv", "json"))
    as_csv = _accepts_csv(request) if given is None else given == "csv"
    nothing = _one_of(single, "batch", ("true", "false")) == "true"
    return UsageRequest(query, _limit(single, report, width), frozenset(groups), as_csv, nothing)


def page_name(start: datetime) -> str:
    """Return the cursor of the page that begins there."""
    return f"page_{int(start.timestamp()):x}"


def parameters_of(report: Report) -> list[dict[str, Any]]:
    """Return the description of a report's parameters for the API's document."""
    default, most = _COST_DAYS if report == "costs" else _LIMITS["1d"]
    time = {"type": "integer", "minimum": 0, "maximum": MAX_TIME_S - 1}
    buckets = f"Buckets of a page: {default} unless said, at most {most} days, 168 hours or 1440 minutes."
    schemas: dict[str, tuple[dict[str, Any], str]] = {
        "start_time": (time, "Unix seconds, included. The first bucket is cut off there."),
        "end_time": (time, "Unix seconds, not included; unset: the end of the bucket of now."),
        "bucket_width": (
            {"enum": list(get_args(BucketWidth))},
            "1d unless said; buckets are minutes, hours, days UTC.",
        ),
        "limit": ({"type": "integer", "minimum": 1, "maximum": most if report == "costs" else 1440}, buckets),
        "page": ({"type": "string"}, "next_page of the page before; the other parameters stay the same."),
        "format": ({"enum": ["csv", "json"]}, "As `Accept: text/csv` does."),
        "batch": ({"type": "boolean"}, "Only batch jobs, of which there are none, or only others."),
    }
    described = [
        {"name": name, "in": "query", "required": name == "start_time", "schema": schema, "description": text}
        for name, (schema, text) in schemas.items()
        if name in _SINGLE[report]
    ]
    for name in _LISTS[report]:
        item: dict[str, Any] = {"enum": list(_GROUPS[report])} if name == "group_by" else {"type": "string"}
        schema = {"type": "array", "items": item, "maxItems": MAX_VALUES}
        text = "What to sum over, any combination." if name == "group_by" else "Only these."
        described.append({"name": f"{name}[]", "in": "query", "required": False, "schema": schema, "description": text})
    return described


def _parameters(request: Request, report: Report) -> tuple[dict[str, str], dict[str, list[str]]]:
    single: dict[str, str] = {}
    lists: dict[str, list[str]] = {}
    for given, value in request.query_params.multi_items():
        name = _INDEX.sub("", given)
        if name in _LISTS[report]:
            values = lists.setdefault(name, [])
            if value not in values:
                values.append(value)
            if len(values) > MAX_VALUES:
                raise _invalid(name, f"at most {MAX_VALUES} values")
        elif given not in _SINGLE[report]:
            shown = "".join(character if character.isprintable() else "?" for character in given[:80])
            raise HttpError(400, "unknown_parameter", f"Unknown parameter: '{shown}'.", param=shown)
        elif given in single:
            raise _invalid(given, "given once")
        else:
            single[given] = value
    return single, lists


def _invalid(name: str, what: str) -> HttpError:
    return HttpError(400, "invalid_value", f"'{name}' must be {what}.", param=name)


def _one_of(single: Mapping[str, str], name: str, values: Sequence[_Value]) -> _Value | None:
    given = single.get(name)
    if given is None:
        return None
    for value in values:
        if value == given:
            return value
    raise _invalid(name, f"one of {', '.join(values)}")


def _number(single: Mapping[str, str], name: str, least: int, most: int, what: str) -> int | None:
    given = single.get(name)
    if given is None:
        return None
    if not re.fullmatch(r"[0-9]{1,15}", given, re.ASCII) or not least <= int(given) <= most:
        raise _invalid(name, what)
    return int(given)


def _moment(single: Mapping[str, str], name: str) -> datetime | None:
    seconds = _number(single, name, 0, MAX_TIME_S - 1, "a time in Unix seconds")
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _limit(single: Mapping[str, str], report: Report, width: BucketWidth) -> int:
    default, most = _COST_DAYS if report == "costs" and width == "1d" else _LIMITS[width]
    return _number(single, "limit", 1, most, f"a number from 1 to {most}") or default


def _page_start(single: Mapping[str, str], start: datetime, end: datetime | None) -> datetime:
    page = single.get("page")
    if page is None:
        return start
    named = _PAGE.fullmatch(page)
    most = MAX_TIME_S - 1 if end is None else int(end.timestamp()) - 1
    if named is None or not start.timestamp() < int(named[1], 16) <= most:
        raise _invalid("page", "the next_page of the page before, with the same start_time and end_time")
    return datetime.fromtimestamp(int(named[1], 16), UTC)


def _accepts_csv(request: Request) -> bool:
    kinds = [part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "").split(",")]
    return "text/csv" in kinds and "application/json" not in kinds
