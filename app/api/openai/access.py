"""Who asks: one dependency that guards every route of the wire API."""

from typing import Annotated, Final

from fastapi import Depends

from app.domain.models.access import Principal
from app.domain.models.conversations import Caller

LOCAL_ORGANIZATION: Final = "default"
"""Whom a server without keys, which answers on this machine only, serves."""


async def principal_of() -> Principal:
    """Return who a request is made by."""
    return Principal(Caller(LOCAL_ORGANIZATION))


Access = Annotated[Principal, Depends(principal_of)]
