"""Who may do what: the principal that a request is made by."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from app.domain.models.conversations import Caller

Scope = Literal["read", "write", "usage", "admin"]
"""`read`: look at what there is; `write`: run agents, call models, change and delete; `usage`: usage and costs; `admin`:
keys and projects of the organization."""

ALL_SCOPES: frozenset[str] = frozenset(get_args(Scope))


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request is made by, and what that one may do."""

    caller: Caller
    scopes: frozenset[str] = field(default=ALL_SCOPES)
    agents: frozenset[str] | None = None
    """Keys of the agents it may run; None: all."""
    models: frozenset[str] | None = None
    """Upstream models it may call; None: all that the server allows."""

    def may_use_agent(self, key: str) -> bool:
        """Tell whether it may run an agent."""
        return self.agents is None or key in self.agents

    def may_use_model(self, name: str) -> bool:
        """Tell whether it may call an upstream model."""
        return self.models is None or name in self.models
