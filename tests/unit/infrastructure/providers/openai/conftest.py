"""Nothing here reaches the network."""

from tests.network import no_network

__all__ = ["no_network"]
