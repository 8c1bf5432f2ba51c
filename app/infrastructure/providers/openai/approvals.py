"""Which tool calls of a run may be made: what people have decided, and what they are still to be asked.

The SDK's own book of approvals is not used: it binds decisions to objects of one process. Here a decision belongs to
the path of a call, which is the same in every attempt.
"""

from collections.abc import Sequence
from typing import Final

from agents.tool import DEFAULT_APPROVAL_REJECTION_MESSAGE

from app.domain.models.approvals import Approval, ApprovalRequest

EXPIRED_MESSAGE: Final = "Tool execution was not approved: nobody decided about it in time."


class RunApprovals:
    """The approvals of one run, for one execution of it."""

    def __init__(self, known: Sequence[Approval]) -> None:
        """Begin with the requests of earlier attempts and what became of them."""
        self._known = {approval.request.step: approval for approval in known}
        self._always = {approval.request.tool: approval for approval in known if approval.always}
        self._new: dict[str, ApprovalRequest] = {}

    def decision(self, step: str, tool: str) -> Approval | None:
        """Return what was decided of a call, by itself or for every call of its tool; None: nothing yet."""
        own = self._known.get(step)
        if own is not None and own.state != "pending":
            return own
        return self._always.get(tool)

    def ask(self, request: ApprovalRequest) -> None:
        """Note that a call waits for a person."""
        self._new[request.step] = request

    @property
    def undecided(self) -> tuple[ApprovalRequest, ...]:
        """What this execution waits for, in the order of asking."""
        return tuple(self._new.values())

    @property
    def unheard(self) -> tuple[ApprovalRequest, ...]:
        """What it waits for and no earlier attempt has asked."""
        return tuple(request for step, request in self._new.items() if step not in self._known)

    def drop_within(self, step: str) -> None:
        """Forget what waits inside of a call that has ended without it: nobody would hear the answer."""
        for asked in [asked for asked in self._new if asked.startswith(f"{step}/")]:
            del self._new[asked]

    def waits_within(self, step: str) -> bool:
        """Tell whether a call inside of another one (of an agent used as a tool) waits for a person."""
        return any(asked.startswith(f"{step}/") for asked in self._new)


def refusal(decision: Approval) -> str | None:
    """Return what the model is told of a call that may not be made; None when it may."""
    if decision.state == "approved":
        return None
    if decision.state == "expired":
        return EXPIRED_MESSAGE
    return decision.message or DEFAULT_APPROVAL_REJECTION_MESSAGE
