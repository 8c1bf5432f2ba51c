"""What comes from this machine: until there are keys, nobody else may be served."""

from typing import Final
from urllib.parse import urlsplit

from app.api.errors import HttpError
from app.domain.loopback import is_loopback

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def foreign_page(host: str, origin: str | None, *, changes: bool) -> HttpError | None:
    """Return why a request is refused that a page of a stranger could send through the user's browser; None: it is not.

    The Host header must name this machine (a rebound DNS name does not), and a request that changes something must
    not come from another origin.
    """
    if not is_loopback_authority(host):
        message = "This server answers on this machine only, until it has keys: call it as localhost or 127.0.0.1."
        return HttpError(421, "host_not_allowed", message, param="Host")
    if origin is None or not changes or same_authority(origin, host):
        return None
    message = "Pages of another origin may not call this server."
    return HttpError(403, "origin_not_allowed", message, type="permission_error", param="Origin")


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
