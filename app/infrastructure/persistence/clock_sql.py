"""The database's own clock, in SQL: leases are compared by it, so that no two machines need agree on the time."""

from typing import Any

from sqlalchemy import BigInteger, DateTime
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class now_ms(FunctionElement[int]):  # noqa: N801 - reads as a function in SQL
    """Milliseconds since 1970 by the database's clock, at this statement rather than at the transaction's start."""

    type = BigInteger()
    inherit_cache = True


@compiles(now_ms, "postgresql")
def _now_ms_postgresql(_element: now_ms, _compiler: Any, **_options: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)"


@compiles(now_ms, "sqlite")
def _now_ms_sqlite(_element: now_ms, _compiler: Any, **_options: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000 AS integer)"


class session_clock(FunctionElement[Any]):  # noqa: N801 - reads as a function in SQL
    """The time of day in the format of the SDK's `created_at` default, at this statement."""

    type = DateTime(timezone=False)
    inherit_cache = True


@compiles(session_clock, "postgresql")
def _session_clock_postgresql(_element: session_clock, _compiler: Any, **_options: Any) -> str:
    return "CAST(clock_timestamp() AS timestamp)"


@compiles(session_clock, "sqlite")
def _session_clock_sqlite(_element: session_clock, _compiler: Any, **_options: Any) -> str:
    return "CURRENT_TIMESTAMP"
