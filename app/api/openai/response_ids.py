"""Ids of responses and of what is in them, all of them made from the ids of runs and calls, the same on any replica.

A run is a response. One that waits for a person is several: `resp_<hex>` ends where the run first waits, and
`resp_<hex>_2` is what comes after that. Each such stretch of a run is called a part, counted from 1.
"""

import re
from dataclasses import dataclass
from typing import Final

from app.api.errors import HttpError

_RESPONSE_ID: Final = re.compile(r"resp_([0-9a-f]{32})(?:_([2-9]|[1-9][0-9]{1,3}))?")
_APPROVAL_ID: Final = re.compile(r"mcpr_([0-9a-f]{32})_(.+)", re.DOTALL)
_CALL_ID: Final = "mcp_"


@dataclass(frozen=True, slots=True)
class ResponseId:
    """Which part of which run a response is."""

    run_id: str
    part: int = 1

    def __str__(self) -> str:
        """Return the id on the wire."""
        base = f"resp_{self.hex}"
        return base if self.part == 1 else f"{base}_{self.part}"

    @property
    def hex(self) -> str:
        """The run's id without its prefix."""
        return self.run_id.removeprefix("run_")

    @property
    def created_at(self) -> int:
        """When the run was accepted, in seconds since 1970: its id begins with the millisecond."""
        return int(self.hex[:12], 16) // 1000


def parsed_response_id(text: str, param: str = "response_id") -> ResponseId:
    """Return what a response id of the wire means.

    Raises:
        HttpError: no response of ours can have that id (404).
    """
    found = _RESPONSE_ID.fullmatch(text)
    if found is None:
        raise response_not_found(text, param)
    return ResponseId(f"run_{found[1]}", int(found[2] or 1))


def response_not_found(text: str, param: str = "response_id") -> HttpError:
    """Return the error for a response that does not exist for this tenant; all reasons look the same."""
    if param == "previous_response_id":
        return HttpError(
            400, "previous_response_not_found", f"Previous response with id '{text[:80]}' not found.", param=param
        )
    return HttpError(404, "response_not_found", f"Response with id '{text[:80]}' not found.", param=param)


def approval_id(run_hex: str, call: str) -> str:
    """Return the id of a request for approval; see `approval_call`."""
    return f"mcpr_{run_hex}_{call}"


def approval_call(call_id: str, scope: str) -> str:
    """Return what names a call in its request's id: the call's id, or a path for one of a nested agent."""
    return f"{scope}/t:{call_id}" if scope else call_id


def parsed_approval_id(text: str, param: str) -> tuple[str, str]:
    """Return the run and the call that a request for approval is of.

    Raises:
        HttpError: no request of ours can have that id (400).
    """
    found = _APPROVAL_ID.fullmatch(text)
    if found is None:
        raise HttpError(400, "invalid_value", "There is no such request for approval.", param=param)
    return f"run_{found[1]}", found[2]


def mcp_call_id(call_id: str) -> str:
    """Return the id of the item that shows a call of the agent's own tools."""
    return f"{_CALL_ID}{call_id}"


def parsed_mcp_call_id(text: str) -> str:
    """Return the call that an item shows, for a client that gives the item back."""
    return text.removeprefix(_CALL_ID)
