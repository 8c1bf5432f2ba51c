"""One model call while it goes on: its deltas are told, its end is metered and recorded as a step."""

import asyncio
import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, cast

import openai
import structlog
from agents import ModelResponse
from agents.exceptions import ModelTimeoutError
from agents.items import TResponseInputItem, TResponseStreamEvent

from app.domain.models.conversations import Item
from app.domain.models.events import ModelCallStarted, UsageReported
from app.domain.models.runs import Step
from app.domain.models.usage import Accuracy, CallOutcome, CallUsage, TokenUsage
from app.infrastructure.providers.openai import wire_json
from app.infrastructure.providers.openai.context import ActiveRun
from app.infrastructure.providers.openai.recording import never_failing, traceback_of
from app.infrastructure.providers.openai.streaming import delta_of
from app.infrastructure.providers.openai.usage import estimated_usage, token_usage

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

    def begin(self) -> None:
        """Take the next step of the scope, and tell that the call begins."""
        recording, scope = self.active.recording, self.active.scope
        self.step = recording.next_model_step(scope)
        self.agent = recording.agents.get(scope, self.active.context.agent)
        with never_failing("request hash"):
            self.request_hash = request_hash(self.instructions, self.request)
        recording.publish(ModelCallStarted(self.step, self.agent, self.model, 1, scope))

    def tell(self, event: TResponseStreamEvent) -> None:
        """Pass a stream event of the model on to the readers, if it is one for them."""
        try:  # not `never_failing`: this runs for every delta, and a context manager costs more than the delta
            delta = delta_of(event, self.active.scope)
            if delta is None:
                return
            if self.first_token_ms is None:
                self.first_token_ms = self._elapsed_ms()
                self.active.recording.saw_token()
            self.partial.append(delta.delta)
            self.active.recording.publish(delta)
        except Exception as error:  # noqa: BLE001 - readers do without an odd delta, the whole answer has it; logged
            log.error("recording_failed", what="delta", exception=traceback_of(error))

    def succeeded(self, response: ModelResponse) -> None:
        """Record the call as a finished step. An endpoint that reported no usage has its tokens counted here."""
        with never_failing("model call"):
            items = [cast("Item", item) for item in response.to_input_items()]
            if not self.active.scope:
                self.active.recording.responses.append((response.response_id or "", items))
            tokens = token_usage(response.usage)
            accuracy: Accuracy = "exact"
            if tokens.total_tokens == 0:
                tokens = estimated_usage(self.instructions, self.request, "".join(_texts(items)))
                accuracy = "estimated"
            self._record("success", accuracy, tokens, items, response.response_id)

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
                self._record(outcome, "exact", TokenUsage(requests=1), None, None)
                return
            tokens = estimated_usage(self.instructions, self.request, "".join(self.partial))
            self._record(outcome, "estimated", tokens, None, None)

    def _elapsed_ms(self) -> int:
        return round((time.monotonic() - self.started) * 1000)

    def _record(
        self,
        outcome: CallOutcome,
        accuracy: Accuracy,
        tokens: TokenUsage,
        items: list[Item] | None,
        response_id: str | None,
    ) -> None:
        recording = self.active.recording
        latency_ms = self._elapsed_ms()
        recording.calls.append(
            CallUsage(
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
        )
        state: Literal["done", "failed"] = "failed" if items is None else "done"
        recording.steps.append(
            Step(
                key=self.step,
                kind="model",
                name=self.model,
                agent=self.agent,
                state=state,
                request_hash=self.request_hash,
                result=items,
                response_id=response_id,
                started_at=self.started_at,
                duration_ms=latency_ms,
            )
        )
        recording.publish(UsageReported(self.step, self.model, tokens, accuracy, self.active.scope))


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
