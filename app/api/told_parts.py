"""What a narrated run is told in: parts that begin, grow and end, calls, and the end; each protocol writes its own."""

from dataclasses import dataclass
from typing import Any, Literal

from app.domain.models.events import TerminalEvent

PartKind = Literal["text", "reasoning"]
CallMaker = Literal["server", "client", "provider"]
"""Who executes a call: we do, the client whose tool it is does, or the model's provider has done it."""


@dataclass(frozen=True, slots=True)
class StepBegan:
    """A model call of the run's own agents begins; what its tools do belongs to it."""

    step: str


@dataclass(frozen=True, slots=True)
class StepEnded:
    """The next model call begins, or nothing comes any more."""

    step: str


@dataclass(frozen=True, slots=True)
class PartBegan:
    """A text or a piece of reasoning begins; its id is unique in the stream."""

    kind: PartKind
    id: str
    scope: str


@dataclass(frozen=True, slots=True)
class PartGrew:
    """More of a part."""

    kind: PartKind
    id: str
    delta: str
    scope: str


@dataclass(frozen=True, slots=True)
class PartEnded:
    """A part is whole; or void, when the attempt that told it was lost: it comes again under another id."""

    kind: PartKind
    id: str
    scope: str
    void: bool = False


@dataclass(frozen=True, slots=True)
class NestedAnswer:
    """A message of an agent that is used as a tool, whole; `call` is the id of that tool's call."""

    call: str
    text: str


@dataclass(frozen=True, slots=True)
class SourceCited:
    """A page that an answer refers to."""

    url: str
    title: str | None


@dataclass(frozen=True, slots=True)
class CallMade:
    """A tool is called; `id` is unique in the run, `arguments` is the model's JSON text."""

    id: str
    name: str
    arguments: str
    by: CallMaker
    scope: str


@dataclass(frozen=True, slots=True)
class CallAnswered:
    """A tool has answered: with a text, or with an item of the provider."""

    id: str
    output: Any
    scope: str


@dataclass(frozen=True, slots=True)
class CallDenied:
    """A person has refused the call."""

    id: str
    output: str
    scope: str


@dataclass(frozen=True, slots=True)
class ApprovalAsked:
    """A person is to allow a call that was made."""

    approval_id: str
    call: str
    name: str
    scope: str


@dataclass(frozen=True, slots=True)
class NestedBegan:
    """An agent that is used as a tool begins; `scope` names this use of it."""

    scope: str
    agent: str
    call: str | None


@dataclass(frozen=True, slots=True)
class NestedEnded:
    """An agent that is used as a tool has ended."""

    scope: str


@dataclass(frozen=True, slots=True)
class AgentChanged:
    """Another agent answers from here on."""

    agent: str


@dataclass(frozen=True, slots=True)
class Paused:
    """The stream ends, as the run waits for a person."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The run has ended."""

    event: TerminalEvent
    client_calls: tuple[str, ...]
    """The calls that the client is to execute, in their order."""


Narration = (
    StepBegan
    | StepEnded
    | PartBegan
    | PartGrew
    | PartEnded
    | NestedAnswer
    | SourceCited
    | CallMade
    | CallAnswered
    | CallDenied
    | ApprovalAsked
    | NestedBegan
    | NestedEnded
    | AgentChanged
    | Paused
    | Ended
)
