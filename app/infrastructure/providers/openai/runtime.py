"""The only caller of the Runner: one run, plain or streamed, from a claimed row to what is to be recorded."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

import structlog
from agents import Agent, RunConfig, Runner, RunResult, TResponseInputItem
from agents.tracing import get_current_trace

from app.domain.errors import (
    AgentFailed,
    AppError,
    GuardrailTripped,
    InvalidInput,
    LeaseLost,
    ProviderError,
    ProviderRejected,
    RateLimited,
    RequestError,
    StorageUnavailable,
)
from app.domain.models.approvals import ApprovalRequest
from app.domain.models.conversations import Item
from app.domain.models.events import ApprovalRequested, RunStarted
from app.domain.models.runs import ClaimedRun, ErrorInfo, RunOutcome, RunStatus
from app.domain.run_ports import RunLog
from app.infrastructure.providers.openai import tool_calls
from app.infrastructure.providers.openai.buffered_session import BufferedSession
from app.infrastructure.providers.openai.client_tools import client_calls, client_tools
from app.infrastructure.providers.openai.context import ACTIVE_RUN, ActiveRun, ContextFactory, run_context
from app.infrastructure.providers.openai.errors import translate
from app.infrastructure.providers.openai.item_pairs import pair_safe
from app.infrastructure.providers.openai.journal_model import JournalModelProvider
from app.infrastructure.providers.openai.lifecycle import RecordingHooks
from app.infrastructure.providers.openai.output_types import JsonSchemaOutput, json_output, text_output
from app.infrastructure.providers.openai.preparation import prepared
from app.infrastructure.providers.openai.prepended_history import PrependedHistory, looks_at_history
from app.infrastructure.providers.openai.recording import RunRecording, traceback_of
from app.infrastructure.providers.openai.registry.agents import AgentRegistry
from app.infrastructure.providers.openai.run_config import RunDefaults, run_config

log = structlog.get_logger(__name__)


_REFUSED = frozenset({400, 413, 415, 422})
"""What an endpoint answers to a request whose content it will never take."""
_REPLAY_TURNS = 100
"""Of the event loop, without anything being given back: then a replay has come to its end. It takes a few of them."""


class OpenAIAgentRuntime:
    """AgentRuntime on the SDK's Runner."""

    def __init__(
        self,
        registry: AgentRegistry,
        models: JournalModelProvider,
        defaults: RunDefaults,
        context_factory: ContextFactory | None = None,
    ) -> None:
        """`models` records every call; `context_factory` makes the context type that the caller's agents expect."""
        self.registry = registry
        self.models = models
        self.defaults = defaults
        self.context_factory = context_factory

    def open(self, claimed: ClaimedRun, log: RunLog) -> "OpenAIExecution":
        """Prepare one execution; see the port."""
        return OpenAIExecution(self, claimed, log)


class OpenAIExecution:
    """AgentExecution: one call of `Runner.run`.

    Streamed and plain runs take the same path: the Runner always gets whole responses, and the recorded model streams
    underneath when someone listens. The Runner's own stream would cost every delta a second queue.
    """

    def __init__(self, runtime: OpenAIAgentRuntime, claimed: ClaimedRun, log: RunLog) -> None:
        """Everything this run gathers lives in its recording."""
        self._runtime = runtime
        self._run = claimed.run
        self._local = claimed.run.session_mode == "local"
        self._history, self._unasked = _halves(claimed) if self._local else ([], [])
        # In server mode the provider has the history, but not what it was sent in vain.
        self._undelivered: list[Item] = [] if self._local else tool_calls.undelivered(claimed.history)
        self._session = BufferedSession(claimed.run.session_id, self._history)
        self._recording = RunRecording(
            claimed,
            log,
            history=self._history,
            key_of=runtime.registry.key_named,
            on_replay_mismatch=runtime.defaults.on_replay_mismatch,
        )
        self._trace_id: str | None = None

    async def run(self) -> RunOutcome:
        """Execute the run to its end or until it waits; see the port."""
        run = self._run
        self._recording.publish(RunStarted(run.id, run.conversation_id, run.agent, run.fence))
        try:
            return self._finished(await self._entered())
        except (LeaseLost, StorageUnavailable):
            raise  # nothing more can be recorded: this execution is over, the run is not
        except Exception as error:  # an agent's code may raise anything; it is logged, translated, recorded
            translated = translate(error)
            if isinstance(translated, LeaseLost | StorageUnavailable):  # the SDK wraps what a tool's recording raises
                raise translated from error
            _log_failure(run.id, error, translated)
            return self._ended(RunStatus.FAILED, _error_info(translated))

    async def replay(self) -> None:
        """Go through what is recorded; see the port."""
        recording = self._recording
        recording.replays_only = True
        running = asyncio.create_task(self._entered(), name=f"replay {self._run.id}")
        frontier = asyncio.create_task(recording.at_frontier.wait())
        try:
            await asyncio.wait((running, frontier), return_when=asyncio.FIRST_COMPLETED)
            quiet_turns, given_back = 0, recording.given_back
            while quiet_turns < _REPLAY_TURNS and not running.done():
                await asyncio.sleep(0)  # what runs beside the one that stands still comes to its end
                quiet_turns = quiet_turns + 1 if recording.given_back == given_back else 0
                given_back = recording.given_back
        finally:
            frontier.cancel()
            running.cancel()
            await asyncio.wait((frontier, running))
        if not running.cancelled() and running.exception() is not None:
            log.info("replay_ended_early", run_id=self._run.id, error=type(running.exception()).__name__)

    async def _entered(self) -> RunResult:
        """Call the Runner with everything inside of it knowing its run."""
        config = run_config(self._run, self._runtime.models, self._runtime.defaults)
        context = run_context(self._run)
        token = ACTIVE_RUN.set(ActiveRun(context, self._recording, "", config=config))
        try:
            given = self._runtime.context_factory(context) if self._runtime.context_factory else context
            return await self._call_runner(config, given)
        finally:
            ACTIVE_RUN.reset(token)

    async def _call_runner(self, config: RunConfig, context: Any) -> RunResult:
        run = self._run
        tool_calls.refuse_unasked(run.input, self._unasked)
        # Code that calls us inside a trace of its own has the run's spans in that one.
        trace = get_current_trace()
        self._trace_id = config.trace_id if trace is None else trace.trace_id
        where: dict[str, Any] = (
            {"session": self._session} if self._local else {"conversation_id": run.provider_conversation_id}
        )
        agent = self._starting_agent()
        if self._history and not looks_at_history(agent):
            self._session = BufferedSession(run.session_id, [])
            self._recording.prepended = PrependedHistory(self._history)
            where = {"session": self._session}
        return await Runner.run(
            agent,
            cast("list[TResponseInputItem]", [*self._undelivered, *(dict(item) for item in run.input)]),
            context=context,
            max_turns=run.options.max_turns or self._runtime.defaults.max_turns,
            hooks=RecordingHooks(),
            run_config=config,
            **where,
        )

    def _starting_agent(self) -> Agent[Any]:
        options = self._run.options
        output_type = options.output_type  # a process that took the run over has the schema alone
        if output_type is None and options.output_schema is not None:
            output_type = JsonSchemaOutput(options.output_schema)
        agent = self._runtime.registry.get(self._run.agent).agent
        return prepared(agent, self._runtime.models.default_model, output_type, client_tools(options.client_tools))

    def _finished(self, result: RunResult) -> RunOutcome:
        made = [item for _, answer in self._recording.responses for item in answer]
        calls = client_calls(result.interruptions, self._run.options.client_tools, made)
        if len(calls) < len(result.interruptions):
            return self._waiting(result, calls)
        output = self._said() if calls else json_output(result.final_output)
        items = self._items() if self._local else self._server_items(result)
        return self._outcome(
            RunStatus.COMPLETED,
            self._runtime.registry.key_of(result.last_agent),
            output,
            text_output(output),
            items,
            client_calls=calls,
        )

    def _said(self) -> str:
        """Return the text that came with the calls that the caller is to execute; empty when there was none."""
        return tool_calls.text_of(self._recording.responses[-1][1]) if self._recording.responses else ""

    def _waiting(self, result: RunResult, calls: Sequence[str]) -> RunOutcome:
        """Return that the run waits for people; what it has done is in its steps, and its history is written later."""
        approvals = self._recording.approvals
        if not approvals.undecided:
            item = next(one for one in result.interruptions if _call_id(one.raw_item) not in calls)
            kind = tool_calls.kind_of(item.raw_item)
            log.warning("approval_not_possible", run_id=self._run.id, tool=item.tool_name, kind=kind)
            message = f"A tool asked for an approval, which is not possible for its kind: {kind}."
            return self._ended(RunStatus.FAILED, ErrorInfo(AgentFailed.code, message))
        for request in approvals.unheard:
            self._recording.publish(
                ApprovalRequested(request.call_id, request.tool, request.arguments, request.agent, request.scope)
            )
        agent = self._runtime.registry.key_of(result.last_agent)
        return self._outcome(RunStatus.WAITING, agent, None, "", [], approvals=approvals.undecided)

    def interrupted(self, reason: str) -> RunOutcome:
        """Return the outcome of a stopped run; see the port."""
        message = {
            "user": "The run was cancelled.",
            "interrupted": "A newer message of the conversation interrupted the run.",
            "timeout": "The run took longer than its time limit.",
            "process_lost": "The processes that executed the run were lost, one after another.",
        }[reason]
        status = RunStatus.FAILED if reason == "process_lost" else RunStatus.CANCELLED
        return self._ended(status, ErrorInfo("run_cancelled", message, {"reason": reason}))

    def _ended(self, status: RunStatus, error: ErrorInfo) -> RunOutcome:
        """Close the history of a run that did not finish: its input, the finished pairs, an output for open calls."""
        outputs = {
            call.call_id: call.output
            for call in self._recording.tool_calls.values()
            if call.output is not None and not call.scope
        }
        answers = [output for _, output in self._recording.responses]
        if not self._recording.responses and (
            error.code == InvalidInput.code or error.details.get("upstream_status") in _REFUSED
        ):
            # We or the endpoint refused the very first request: with this input in its history every later one would
            # be refused too, and the conversation could never go on. The messages and the run still hold it.
            return self._outcome(status, self._recording.agents.get("", self._run.agent), None, "", [], error)
        if self._local:
            known = self._items() or list(self._run.input)
            # An answer without calls was the last one, and refused: by a guardrail, or because it was malformed.
            waiting = [item for answer in answers if tool_calls.has_calls(answer) for item in answer]
            in_flight = [] if error.code == GuardrailTripped.code else tool_calls.unseen(waiting, known)
            closed = tool_calls.closed(tool_calls.without_reasoning_tail([*known, *in_flight]), outputs)
        else:  # the provider has all of its answers; the outputs of the last one are what it still waits for
            closed = list(self._run.input)
            for answer in answers:
                closed += tool_calls.closed(answer, outputs)
        agent = self._recording.agents.get("", self._run.agent)
        return self._outcome(status, agent, None, "", closed, error)

    def _items(self) -> list[Item]:
        return [dict(item) for item in self._session.added]

    def _server_items(self, result: RunResult) -> list[Item]:
        new = [cast("Item", item.to_input_item()) for item in result.new_items if item.type != "tool_approval_item"]
        return [*self._run.input, *new]

    def _outcome(
        self,
        status: RunStatus,
        agent: str,
        output: Any,
        output_text: str,
        items: list[Item],
        error: ErrorInfo | None = None,
        approvals: tuple[ApprovalRequest, ...] = (),
        client_calls: tuple[str, ...] = (),
    ) -> RunOutcome:
        recording = self._recording
        return RunOutcome(
            status=status,
            agent=agent,
            output=output,
            output_text=output_text,
            items=tuple(items),
            tool_calls=tuple(recording.tool_calls.values()),
            handoffs=tuple(recording.handoffs),
            response_ids=tuple(response_id for response_id, _ in recording.responses if response_id),
            spans=tuple(recording.spans),
            trace_id=self._trace_id,
            started_at=recording.started_at,
            first_token_ms=recording.first_token_ms,
            error=error,
            approvals=approvals,
            client_calls=client_calls,
        )


def _halves(claimed: ClaimedRun) -> tuple[list[Item], list[Item]]:
    """Return what a run starts from: whole pairs, and the calls its input answers; and what of that has no call."""
    history, given = tool_calls.with_unique_ids(claimed.history), claimed.run.input
    kept = {id(item) for item in pair_safe([*history, *given])}
    return [item for item in history if id(item) in kept], [item for item in given if id(item) not in kept]


def _call_id(raw: Any) -> str | None:
    call_id = raw.get("call_id") if isinstance(raw, Mapping) else getattr(raw, "call_id", None)
    return call_id if isinstance(call_id, str) else None


def _log_failure(run_id: str, error: Exception, translated: AppError) -> None:
    """Log why a run failed. The text of an upstream error may repeat the prompt, so only its facts are logged."""
    if isinstance(translated, AgentFailed | RequestError) and translated is not error:
        log.warning("run_failed", run_id=run_id, code=translated.code, exception=traceback_of(error))
        return
    log.warning(
        "run_failed",
        run_id=run_id,
        code=translated.code,
        reason=translated.public_message,
        error=type(error).__name__,
        **_details(translated),
    )


def _error_info(error: AppError) -> ErrorInfo:
    return ErrorInfo(error.code, error.public_message, _details(error))


def _details(error: AppError) -> dict[str, Any]:
    details: dict[str, Any] = {}
    if isinstance(error, ProviderError):
        details["retryable"] = error.retryable
        if error.request_id is not None:
            details["request_id"] = error.request_id
    if isinstance(error, ProviderRejected) and error.upstream_status is not None:
        details["upstream_status"] = error.upstream_status
    if isinstance(error, ProviderRejected) and error.incomplete_reason is not None:
        details["incomplete_reason"] = error.incomplete_reason
    if isinstance(error, RateLimited) and error.retry_after_s is not None:
        details["retry_after_s"] = error.retry_after_s
    if isinstance(error, GuardrailTripped):
        details["guardrail"] = error.guardrail
    if isinstance(error, RequestError) and error.param is not None:
        details["param"] = error.param
    return details
