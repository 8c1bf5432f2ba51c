"""What the intake of events needs from outside. A port's docstring is its contract."""

from typing import Protocol


class SigningKeys(Protocol):
    """Random keys that all processes of the database share; nobody is ever told one."""

    async def secret(self, purpose: str) -> bytes:
        """Return the 32 bytes that things of a purpose are signed with; they are made when they are first asked for.

        Raises:
            StorageUnavailable: the database did not answer.
        """
        ...
