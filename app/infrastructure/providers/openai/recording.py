"""What one execution of a run knows and gathers: mutable, and of one task tree."""

import asyncio
import hashlib
import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

import structlog

from app.domain.models.conversations import Item
from app.domain.models.events import RunEvent
from app.domain.models.runs import ClaimedRun, HandoffRecord, Step, ToolCallRecord
from app.domain.models.usage import CallUsage
from app.domain.run_ports import RunLog
from app.infrastructure.providers.openai.approvals import RunApprovals
from app.infrastructure.providers.openai.prepended_history import PrependedHistory

log = structlog.get_logger(__name__)

MAX_NAME_CHARS = 255
"""What the columns for step keys, models and agents hold."""


@contextmanager
def never_failing(what: str) -> Generator[None]:
    """Log what recording code raises in the block: a lost row is better than a failed, paid run."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - see above; logged, and the run goes on
        log.error("recording_failed", what=what, exception=traceback_of(error))


def traceback_of(error: BaseException) -> str:
    """Return a traceback as plain text: log renderers that show local variables would show keys and prompts."""
    return "".join(traceback.format_exception(error)).rstrip()


class RunRecording:
    """What one execution knows of its run: what earlier attempts have recorded, and what it gathers itself.

    Everything is keyed by path, never by arrival, because tools and nested agents run at the same time.
    """

    def __init__(
        self,
        claimed: ClaimedRun,
        log: RunLog,
        *,
        history: Sequence[Item] = (),
        key_of: Callable[[str], str] = lambda name: name,
        on_replay_mismatch: Literal["continue", "fail"] = "continue",
    ) -> None:
        """`history`: what the run starts from. `key_of`: rows and events know the SDK's agents by key.

        `on_replay_mismatch`: what happens when a recorded model call does not fit what the agent asks now.
        """
        self.run_id = claimed.run.id
        self.attempt = claimed.run.fence
        self.stream = claimed.run.stream
        self.log = log
        self.key_of = key_of
        self.on_replay_mismatch: Literal["continue", "fail"] = on_replay_mismatch
        self.started_at = datetime.now(UTC)
        self.recorded: Mapping[str, Step] = claimed.steps
        """Steps of earlier attempts, by key."""
        self.recorded_calls: Mapping[str, CallUsage] = {call.step: call for call in claimed.calls}
        self.approvals = RunApprovals(claimed.approvals)
        self.replays_only = False
        """True: nothing new may happen; whoever comes to something that is not recorded stands still."""
        self.at_frontier = asyncio.Event()
        """Set when someone has come to something that is not recorded."""
        self.given_back = 0
        """How many recorded calls and verdicts have been given back so far."""
        self._started = time.monotonic()
        self._history = history
        self._model_calls: dict[str, int] = {}
        self._nested_runs: dict[str, int] = {}
        self._call_ids: set[str] | None = None
        self._tools: dict[str, tuple[float, datetime]] = {}
        self._unnamed: dict[str, list[str]] = {}
        self._unnamed_count = 0
        self.done_tools: set[str] = set()
        """Keys of tool calls whose output this execution has recorded, or found recorded."""
        self.listed: set[str] = set()
        """Keys of the listings of MCP servers that this execution has recorded."""
        self.agents: dict[str, str] = {}
        """The key of the agent that each scope is in."""
        self.tool_calls: dict[str, ToolCallRecord] = {}
        self.handoffs: list[HandoffRecord] = []
        self.responses: list[tuple[str, list[Item]]] = []
        """Of the run's own agents: the id and output items of every finished model call, in order."""
        self.spans: list[Mapping[str, Any]] = []
        self.first_token_ms: int | None = None
        self.instructions = claimed.run.options.instructions
        """What the run adds to the instructions of its own agents."""
        self.prepended: PrependedHistory | None = None
        """History that the run's own model calls get although the Runner does not know it."""

    def publish(self, event: RunEvent) -> None:
        """Tell the readers of the run; never raises."""
        try:  # not `never_failing`: this runs for every delta, and a context manager costs more than the delta
            self.log.publish(event)
        except Exception as error:  # noqa: BLE001 - a broken reader must not fail a paid run; logged
            log.error("recording_failed", what="event", exception=traceback_of(error))

    async def new_ground(self) -> None:
        """Return where something new may happen; in a mere replay, never: it ends by being cancelled."""
        if self.replays_only:
            self.at_frontier.set()
            await asyncio.get_running_loop().create_future()

    def elapsed_ms(self) -> int:
        """Return milliseconds since the execution began."""
        return round((time.monotonic() - self._started) * 1000)

    def saw_token(self) -> None:
        """Note the time of the first delta; later ones change nothing."""
        if self.first_token_ms is None:
            self.first_token_ms = self.elapsed_ms()

    def next_model_step(self, scope: str) -> tuple[str, Step | None]:
        """Return the path key of the next model call in a scope (`<scope>/m1`, then `<scope>/m2`), and its record.

        A call that has failed is not replayed: what was recorded after it was the attempt that followed.
        """
        while True:
            number = self._model_calls.get(scope, 0) + 1
            self._model_calls[scope] = number
            key = short(f"{scope}/m{number}")
            step = self.recorded.get(key)
            if step is None or step.state == "done":
                return key, step

    def instructions_in(self, scope: str, own: str | None) -> str | None:
        """Return the instructions of a model call: the agent's own, and what the run adds to its own agents'."""
        if self.instructions is None or scope:
            return own
        return self.instructions if not own else f"{own}\n\n{self.instructions}"

    def is_replaying(self, scope: str) -> bool:
        """Tell whether the next model call of a scope is recorded, so that what leads to it has been told before."""
        number = self._model_calls.get(scope, 0) + 1
        return short(f"{scope}/m{number}") in self.recorded

    def nested_scope(self, scope: str, call_id: str | None) -> str:
        """Return the path of a nested agent run: of the tool call it serves, or numbered when no call is known."""
        if call_id:
            return short(f"{scope}/t:{call_id}")
        number = self._nested_runs.get(scope, 0) + 1
        self._nested_runs[scope] = number
        return f"{scope}/r{number}"

    def scope_in(self, place: str) -> str:
        """Return the path of a nested run that something with a path of its own starts: the same, then `<path>/r2`."""
        number = self._nested_runs.get(place, 0) + 1
        self._nested_runs[place] = number
        return place if number == 1 else short(f"{place}/r{number}")

    def claim_call_id(self, call_id: str) -> bool:
        """Take a tool call's id for this run; False when the history or an earlier call has it already."""
        if self._call_ids is None:
            self._call_ids = {str(item["call_id"]) for item in self._history if "call_id" in item}
        if call_id in self._call_ids:
            return False
        self._call_ids.add(call_id)
        return True

    def unnamed_call_started(self, place: str) -> str:
        """Return an id for a tool call that the SDK tells no id of; `place` is its scope and tool."""
        self._unnamed_count += 1
        call_id = f"local_{self._unnamed_count}"
        self._unnamed.setdefault(place, []).append(call_id)
        return call_id

    def unnamed_call_ended(self, place: str) -> str:
        """Return the id of the oldest call of that place that has not ended."""
        waiting = self._unnamed.get(place)
        return waiting.pop(0) if waiting else self.unnamed_call_started(place)

    def tool_started(self, step: str) -> None:
        """Note when a tool call began."""
        self._tools[step] = (time.monotonic(), datetime.now(UTC))

    def tool_ended(self, step: str) -> tuple[datetime, int]:
        """Return when a tool call began and how many milliseconds it took; zero when its start was not seen."""
        began = self._tools.pop(step, None)
        if began is None:
            return datetime.now(UTC), 0
        return began[1], round((time.monotonic() - began[0]) * 1000)


def short(key: str) -> str:
    """Return a step key that fits its column: the same key, or for a very long one its start and a digest."""
    if len(key) <= MAX_NAME_CHARS:
        return key
    digest = hashlib.blake2b(key.encode(errors="replace"), digest_size=12).hexdigest()
    return f"{key[: MAX_NAME_CHARS - 1 - len(digest)]}~{digest}"
