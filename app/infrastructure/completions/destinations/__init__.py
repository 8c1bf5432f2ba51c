"""The kinds of destinations; each is a module, and plug-ins add more."""

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, Final

from app.domain.delivery_ports import Sink
from app.domain.errors import ConfigurationError
from app.domain.models.deliveries import DestinationKind, DestinationSettings
from app.infrastructure.completions.destinations.http import HttpSink
from app.infrastructure.completions.destinations.jsonl import JsonlSink
from app.infrastructure.completions.destinations.log import LogSink
from app.infrastructure.completions.destinations.nats import NatsSink
from app.infrastructure.completions.destinations.table import TableSink

ENTRY_POINTS: Final = "durable_agents.completion_destinations"


def build_sink(settings: DestinationSettings) -> Sink:
    """Return what sends to a destination; it connects on first use.

    Raises:
        ConfigurationError: the destination cannot be as it is described.
    """
    return _KINDS[settings.kind](settings)


def _plugin(settings: DestinationSettings) -> Sink:
    """Return the sink of a plug-in, which `options.plugin` names."""
    name = str(settings.options.get("plugin", ""))
    found = entry_points(group=ENTRY_POINTS)
    if name not in found.names:
        known = ", ".join(sorted(found.names)) or "none are installed"
        raise ConfigurationError(f"destinations.{settings.name}: there is no plug-in '{name}' ({known}).")
    try:
        factory: Callable[[DestinationSettings], Any] = found[name].load()
    except (ImportError, AttributeError) as error:
        message = f"destinations.{settings.name}: the plug-in '{name}' could not be loaded: {type(error).__name__}."
        raise ConfigurationError(message) from error
    return factory(settings)


_KINDS: Final[Mapping[DestinationKind, Callable[[DestinationSettings], Sink]]] = {
    "http": HttpSink,
    "webhook": HttpSink,
    "jsonl": JsonlSink,
    "table": TableSink,
    "log": LogSink,
    "nats": NatsSink,
    "plugin": _plugin,
}
