"""What counts as this machine: until there are keys, nobody else may be served."""

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from app.domain.errors import ConfigurationError

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def is_loopback(host: str) -> bool:
    """Tell whether a host, without its port, is `localhost` or an address of the loopback network."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_bind(host: str) -> str:
    """Return the address unchanged when it is safe to listen on.

    Raises:
        ConfigurationError: others could reach it, and there are no keys yet that would keep them out.
    """
    if not is_loopback(host):
        raise ConfigurationError(
            f"HOST is '{host}', which other machines can reach, and this server has no keys yet. "
            "Set HOST to 127.0.0.1, ::1 or localhost."
        )
    return host


def is_loopback_authority(authority: str) -> bool:
    """Tell whether a Host header names this machine, with or without a port."""
    return is_loopback(_split(f"//{authority}")[0])


def same_authority(origin: str, host: str) -> bool:
    """Tell whether an Origin header means the host and port that the Host header names."""
    scheme = origin.partition("://")[0].lower()
    name, port = _split(origin)
    asked, asked_port = _split(f"//{host}")
    default = _DEFAULT_PORTS.get(scheme)
    return default is not None and name != "" and (name, port or default) == (asked, asked_port or default)


def _split(url: str) -> tuple[str, int | None]:
    """Return the lower-case host and the port; an empty host when it cannot be read or holds more than that."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "", None
    extra = parts.path or parts.query or parts.fragment or "@" in parts.netloc
    return ("", None) if extra else (parts.hostname or "", port)
