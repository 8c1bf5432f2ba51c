"""Calls to upstream models that pass through us: what is asked, what comes back, and the row that each leaves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from app.domain.models.conversations import Caller
from app.domain.models.usage import CallUsage, TokenUsage

GatewayPath = Literal["/chat/completions", "/responses", "/embeddings"]
"""What of the upstream can be called through us, behind its base URL."""

Header = tuple[bytes, bytes]
"""One header; its name in lower case."""

GatewayEnd = Literal["success", "upstream_error", "upstream_cut", "upstream_timeout", "upstream_away", "client_gone"]
"""How a call ended. `upstream_error`: it answered with an error, or told one inside of a stream. `upstream_cut`: it
broke its answer off, or ended a stream without its last event. `upstream_away`: it could not be reached.
`client_gone`: the client left, or stopped reading, or this process stopped; the upstream call was broken off."""


@dataclass(frozen=True, slots=True)
class GatewayRequest:
    """One call as the upstream gets it."""

    path: GatewayPath
    model: str
    body: bytes
    """The JSON as the client sent it, byte for byte, unless the stream's usage is asked for in it (see
    `usage_added`) or a name was in it twice."""
    usage_added: bool = False
    """The usage of a streamed chat is asked for by us; the client did not, and does not get to see it."""
    headers: Sequence[Header] = ()
    """The client's headers that go on."""


@dataclass(frozen=True, slots=True)
class UpstreamHead:
    """How the upstream began its answer."""

    status: int
    headers: Sequence[Header]
    """What of its headers the client may see."""
    streamed: bool
    """It is an event stream."""
    request_id: str | None
    """The upstream's own id of the request, for its support."""


@dataclass(frozen=True, slots=True)
class Metered:
    """What could be read out of an answer."""

    tokens: TokenUsage | None = None
    """None: it told no usage, or was cut before."""
    response_id: str | None = None
    ended: bool = False
    """A stream: its last event has come. A plain answer: it is whole."""
    error_code: str | None = None
    """The code of the error that the upstream told."""


@dataclass(frozen=True, slots=True)
class GatewayCall:
    """One call through us, as it is recorded: a row of usage and a completion event of its own."""

    id: str
    """`req_` and 32 hex digits: it stands where the rows of a run have the run's id, and belongs to no run."""
    caller: Caller
    path: GatewayPath
    end: GatewayEnd
    usage: CallUsage
    """`step` is the path, `agent` is empty."""
    upstream_status: int | None
    """None: no answer began."""
    upstream_request_id: str | None
    error_code: str | None
    """None: it succeeded."""
    streamed: bool
