"""One model call while it goes on, or as it was recorded: deltas are told, the end is metered and becomes a step."""

import asyncio
import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast

import openai
import structlog
from agents import ModelResponse
from agents.exceptions import ModelTimeoutError
from agents.items import TResponseInputItem, TResponseOutputItem, TResponseStreamEvent

# Not public, but what the client itself makes its answers with: it takes any JSON, known to its types or not.
from openai._models import construct_type
from openai.types.responses import ResponseOutputItem

from app.domain.errors import ReplayMismatch
from app.domain.models.conversations import Item
from app.domain.models.events import ItemDone, ModelCallStarted, UsageReported
from app.domain.models.runs import Step
from app.domain.models.usage import Accuracy, CallOutcome, CallUsage, TokenUsage
from app.infrastructure.providers.openai import wire_json
from app.infrastructure.providers.openai.context import ActiveRun
from app.infrastructure.providers.openai.recording import never_failing, traceback_of
from app.infrastructure.providers.openai.streaming import delta_of
from app.infrastructure.providers.openai.usage import estimated_usage, sdk_usage, token_usage

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class ModelCall:
    """One model call of a run. Whatever goes wrong in recording it is logged and does not touch the call."""

    active: ActiveRun
    model: str
    instructions: str | None
    request: str | list[TResponseInputItem]
    step: str = ""
    agent: str = ""
    request_hash: str | None = None
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: float = field(default_factory=time.monotonic)
    first_token_ms: int | None = None
    partial: list[str] = field(default_factory=list[str])
    """Text that has arrived, for the estimate of a call that is cut."""

    async def begin(self) -> ModelResponse | None:
        """Take the next step of the scope: return its recorded answer, or tell that the call begins and return None.

        Raises:
            ReplayMismatch: the recorded answer is that to another request, and the settings say to fail then.
        """
        recording, scope = self.active.recording, self.active.scope
        self.step, recorded = recording.next_model_step(scope)
        self.agent = recording.agents.get(scope, self.active.context.agent)
        with never_failing("request hash"):
            self.request_hash = request_hash(self.instructions, self.request)
        if recorded is not None:
            return self._replayed(recorded)
        await recording.new_ground()
        recording.publish(ModelCallStarted(self.step, self.agent, self.model, recording.attempt, scope))
        return None

    def _replayed(self, recorded: Step) -> ModelResponse:
        recording = self.active.recording
        if recorded.request_hash != self.request_hash:
            log.warning("replay_mismatch", run_id=recording.run_id, step=self.step, agent=self.agent)
            if recording.on_replay_mismatch == "fail":
                raise ReplayMismatch("The agent has changed while the run stood still. Start the run anew.")
        recording.given_back += 1
        items: list[Item] = list(recorded.result)
        for item in items:
            if "call_id" in item:
                recording.claim_call_id(str(item["call_id"]))
        if not self.active.scope:
            recording.responses.append((recorded.response_id or "", items))
        call = recording.recorded_calls.get(self.step)
        if call is not None and recording.first_token_ms is None:
            recording.first_token_ms = call.first_token_ms
        return ModelResponse(
            output=[_output_item(item) for item in items],
            usage=sdk_usage(TokenUsage() if call is None else call.tokens),
            response_id=recorded.response_id,
        )

    def tell(self, event: TResponseStreamEvent) -> None:
        """Pass a stream event of the model on to the readers, if it is one for them."""
        try:  # not `never_failing`: this runs for every delta, and a context manager costs more than the delta
            delta = delta_of(event, self.active.scope)
            if delta is None:
                return
            if self.first_token_ms is None and delta.delta:
                self.first_token_ms = self._elapsed_ms()
                self.active.recording.saw_token()
            self.partial.append(delta.delta)
            self.active.recording.publish(delta)
        except Exception as error:  # noqa: BLE001 - readers do without an odd delta, the whole answer has it; logged
            log.error("recording_failed", what="delta", exception=traceback_of(error))

    async def succeeded(self, response: ModelResponse) -> None:
        """Record the call as a finished step; when this returns it is on disk, and the SDK may see the answer.

        An endpoint that reported no usage has its tokens counted here.

        Raises:
            LeaseLost, StorageUnavailable: it is not; this execution ends.
        """
        items: list[Item] = [cast("Item", item) for item in response.to_input_items()]
        tokens, accuracy = TokenUsage(requests=1), cast("Accuracy", "exact")
        with never_failing("usage"):
            tokens = token_usage(response.usage)
        if tokens.total_tokens == 0:
            accuracy = "estimated"
            with never_failing("token estimate"):
                tokens = estimated_usage(self.instructions, self.request, "".join(_texts(items)))
        step, call = self._ended("success", accuracy, tokens, items, response.response_id)
        if not self.active.scope:
            # Before the write: a cancellation comes out of it when the step is on disk, and the end must know of it.
            self.active.recording.responses.append((response.response_id or "", items))
        await self.active.recording.log.record(step, call)

    def failed(self, error: BaseException) -> None:
        """Record the call as a failed step: a refused request used nothing, a cut one is counted here."""
        with never_failing("failed model call"):
            outcome: CallOutcome = "error"
            if isinstance(error, asyncio.CancelledError | GeneratorExit):
                outcome = "cancelled"
            elif isinstance(error, openai.APITimeoutError | ModelTimeoutError | TimeoutError):
                outcome = "timeout"
            if isinstance(error, openai.APIStatusError) or (
                isinstance(error, openai.APIConnectionError) and outcome == "error" and not self.partial
            ):
                self.active.recording.log.defer(*self._ended(outcome, "exact", TokenUsage(requests=1), None, None))
                return
            tokens = estimated_usage(self.instructions, self.request, "".join(self.partial))
            self.active.recording.log.defer(*self._ended(outcome, "estimated", tokens, None, None))

    def _elapsed_ms(self) -> int:
        return round((time.monotonic() - self.started) * 1000)

    def _ended(
        self,
        outcome: CallOutcome,
        accuracy: Accuracy,
        tokens: TokenUsage,
        items: list[Item] | None,
        response_id: str | None,
    ) -> tuple[Step, CallUsage]:
        """Tell what the call used, and return it as a step and a metered call; no items: it failed."""
        latency_ms = self._elapsed_ms()
        call = CallUsage(
            step=self.step,
            agent=self.agent,
            model=self.model,
            outcome=outcome,
            accuracy=accuracy,
            tokens=tokens,
            started_at=self.started_at,
            latency_ms=latency_ms,
            first_token_ms=self.first_token_ms,
            response_id=response_id,
        )
        step = Step(
            key=self.step,
            kind="model",
            name=self.model,
            agent=self.agent,
            state="failed" if items is None else "done",
            request_hash=self.request_hash,
            result=items,
            response_id=response_id,
            started_at=self.started_at,
            duration_ms=latency_ms,
        )
        for item in items or ():
            self.active.recording.publish(ItemDone(item, self.step, self.agent, self.active.scope))
        self.active.recording.publish(UsageReported(self.step, self.model, tokens, accuracy, self.active.scope))
        return step, call


def _output_item(item: Item) -> TResponseOutputItem:
    """Return a recorded item as the OpenAI client's type; what it has no type for survives as it is."""
    return cast("TResponseOutputItem", construct_type(type_=ResponseOutputItem, value=dict(item)))


def request_hash(instructions: str | None, request: str | list[TResponseInputItem]) -> str:
    """Return a digest of what the model was asked, to notice on replay that the code has changed meanwhile."""
    encoded = wire_json.encode([instructions, request]).encode()
    return hashlib.blake2b(encoded, digest_size=16).hexdigest()


def _texts(items: Sequence[Item]) -> Iterator[str]:
    """Yield what an answer says: texts, refusals, names and arguments of calls."""
    for item in items:
        for part in item.get("content") or item.get("summary") or ():
            yield str(part.get("text") or part.get("refusal") or "")
        for name in ("name", "arguments", "input"):
            yield str(item.get(name) or "")
