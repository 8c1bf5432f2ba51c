"""Every error this system raises on purpose.

    AppError
      RequestError          the caller can mend it
        InvalidInput          a value is wrong (.param says which)
        UnknownAgent          no agent has that key (.known lists those that exist)
        ConversationNotFound  it does not exist for this tenant
        RunNotFound           it does not exist for this tenant
        SessionNotFound       no such client session or runtime memory
        RunConflict           the run or conversation is not in a state for this (.reason)
      ProviderError         the model's endpoint failed (.retryable, .request_id)
        ProviderTimeout       no answer in time, or no connection
        RateLimited           it asked us to slow down (.retry_after_s)
        ProviderRejected      it refused the request: key, model, or parameters (.upstream_status)
      RunError              the run ended badly
        TurnLimitReached      more model calls than allowed
        GuardrailTripped      a guardrail refused input or output
        RunCancelled          someone cancelled it, its time ran out, or its process stopped (.reason)
        LeaseLost             another process owns the run now; nothing was written
        ReplayMismatch        the code has changed while the run was interrupted, and the settings say to stop then
        AgentFailed           the agent's own code, a tool, or the model's answer broke the run
      StorageUnavailable    the database did not answer in time; the write did not happen
      ConfigurationError    at start-up only; the message names the setting or the agent and what to change

`public_message` is safe to show to a client: it never holds text of a foreign exception. `code` is stable.
"""

from typing import ClassVar, Final


class AppError(Exception):
    """The root of all our errors. Catch it to handle whatever this system raises on purpose."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, public_message: str) -> None:
        """Keep the message; it must be fit for a client to read."""
        super().__init__(public_message)
        self.public_message: Final = public_message


class RequestError(AppError):
    """The request is at fault and the caller can mend it; nothing was written."""

    code = "invalid_request"

    def __init__(self, public_message: str, *, param: str | None = None) -> None:
        """Name the parameter at fault, if it is one."""
        super().__init__(public_message)
        self.param: Final = param


class InvalidInput(RequestError):
    """A value has the wrong type, size or form; `param` names it."""

    code = "invalid_value"


class UnknownAgent(RequestError):
    """No agent is registered under that key."""

    code = "model_not_found"

    def __init__(self, agent: str, known: tuple[str, ...]) -> None:
        """Tell the caller what exists instead."""
        super().__init__(
            f"There is no agent '{agent[:80]}'. Known agents: {', '.join(known) or 'none'}.", param="agent"
        )
        self.agent: Final = agent
        self.known: Final = known


class ConversationNotFound(RequestError):
    """The conversation does not exist for this tenant; another tenant's looks the same."""

    code = "conversation_not_found"

    def __init__(self, conversation_id: str) -> None:
        """Echo the id the caller sent, shortened."""
        super().__init__(f"There is no conversation '{conversation_id[:80]}'.", param="conversation_id")


class RunNotFound(RequestError):
    """The run does not exist for this tenant."""

    code = "run_not_found"

    def __init__(self, run_id: str) -> None:
        """Echo the id the caller sent, shortened."""
        super().__init__(f"There is no run '{run_id[:80]}'.", param="run_id")


class SessionNotFound(RequestError):
    """No client session or runtime memory has that id."""

    code = "session_not_found"

    def __init__(self, session_id: str) -> None:
        """Say how to get one; the id is a capability, so only its start is echoed."""
        super().__init__(f"There is no session '{session_id[:12]}…'. Create one first.", param="session_id")


class RunConflict(RequestError):
    """What was asked does not fit the state that a run or conversation is in; nothing was written.

    `reason` is `conversation_busy` (an unfinished run, and the request wants no queue), `idempotency_conflict` (the key
    was used for another request), `not_last` (the conversation has gone on since the run that was to be followed),
    `approval_required` (it waits for a person, and nothing is to stand behind that),
    `not_waiting` or `already_decided` (an approval that is not open), `history_elsewhere` (a provider keeps the history
    that was to be changed), `run_unfinished` or `history_unknown` (a fork behind a run that has not ended, or of which
    an earlier release did not record where it ended).
    """

    code = "conflict"

    def __init__(self, public_message: str, *, reason: str, param: str | None = None) -> None:
        """Keep the stable word for what is in the way."""
        super().__init__(public_message, param=param)
        self.reason: Final = reason


class ProviderError(AppError):
    """The model's endpoint failed. The run's input is kept, its failed call is metered."""

    code = "provider_error"

    def __init__(self, public_message: str, *, retryable: bool, request_id: str | None = None) -> None:
        """Keep whether the same request may succeed later, and the upstream request id for support."""
        super().__init__(public_message)
        self.retryable: Final = retryable
        self.request_id: Final = request_id


class ProviderTimeout(ProviderError):
    """The endpoint did not answer in time or could not be reached; always retryable."""

    code = "provider_timeout"

    def __init__(self, public_message: str, *, request_id: str | None = None) -> None:
        """Retryable by definition."""
        super().__init__(public_message, retryable=True, request_id=request_id)


class RateLimited(ProviderError):
    """The endpoint answered 429. Not retryable when the quota is used up."""

    code = "rate_limit_exceeded"

    def __init__(
        self, public_message: str, *, retryable: bool, retry_after_s: float | None, request_id: str | None = None
    ) -> None:
        """`retry_after_s` is the endpoint's own advice in seconds, None when it gave none."""
        super().__init__(public_message, retryable=retryable, request_id=request_id)
        self.retry_after_s: Final = retry_after_s


class ProviderRejected(ProviderError):
    """The endpoint refused the request (its 4xx) or answered something that is no answer."""

    code = "provider_rejected"

    def __init__(
        self,
        public_message: str,
        *,
        upstream_status: int | None,
        request_id: str | None = None,
        incomplete_reason: str | None = None,
    ) -> None:
        """`upstream_status` is its HTTP status, None when the answer could not be read at all.

        `incomplete_reason`: why it stopped in the middle of an answer, in its own words, e.g. `max_output_tokens`.
        """
        super().__init__(public_message, retryable=False, request_id=request_id)
        self.upstream_status: Final = upstream_status
        self.incomplete_reason: Final = incomplete_reason


class RunError(AppError):
    """The run ended badly; its input, finished calls and usage are recorded."""

    code = "run_failed"


class TurnLimitReached(RunError):
    """The run needed more turns (model calls of its loop) than `max_turns`."""

    code = "max_turns_exceeded"


class GuardrailTripped(RunError):
    """A guardrail refused the input or the output; `guardrail` is its name."""

    code = "guardrail_tripped"

    def __init__(self, public_message: str, *, guardrail: str) -> None:
        """Keep the guardrail's name apart from the text."""
        super().__init__(public_message)
        self.guardrail: Final = guardrail


class RunCancelled(RunError):
    """The run was stopped before its end. `reason`: `user`, `interrupted`, `timeout` or `process_lost`."""

    code = "run_cancelled"

    def __init__(self, public_message: str, *, reason: str) -> None:
        """Keep who or what stopped it."""
        super().__init__(public_message)
        self.reason: Final = reason


class LeaseLost(RunError):
    """Another process took the run over, or its conversation was deleted; this process wrote nothing."""

    code = "lease_lost"


class ReplayMismatch(RunError):
    """A recorded model call does not fit what the agent asks now: its code has changed while the run stood still."""

    code = "replay_mismatch"


class AgentFailed(RunError):
    """The agent's own code failed, a tool raised, or the model's answer could not be used."""

    code = "agent_failed"


class StorageUnavailable(AppError):
    """The database did not answer within its time; the write that was tried did not happen."""

    code = "storage_unavailable"


class ConfigurationError(AppError):
    """Start-up cannot go on; the message names the setting or agent and what to change."""

    code = "configuration_error"
