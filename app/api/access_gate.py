"""Nobody gets in unseen: who asks is found out before a route is looked for or a body is read."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.errors import ErrorEnvelope, HttpError, error_reply, http_error_reply
from app.api.json_replies import JsonReply
from app.api.loopback import foreign_page
from app.api.middleware import header, path_of
from app.api.openai.access import PRINCIPAL
from app.domain.errors import AppError
from app.domain.models.access import Credentials, Principal, Refusal, RefusalReason
from app.services.access import AccessService

OPEN_PATHS: Final = frozenset({"/health", "/healthz", "/readyz", "/openapi.json", "/docs"})
"""What everybody may ask: it tells of the service, never of a tenant."""

OPEN_FOLDERS: tuple[str, ...] = ("/docs/", "/ui/", "/v1/shared/")
"""Beginnings of paths, each ended by `/`, that need no key: what stands there guards itself, or is public."""

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})

_REFUSALS: Final[Mapping[RefusalReason, HttpError]] = {
    "missing": HttpError(
        401,
        "invalid_api_key",
        "You didn't provide an API key. Send it in the header 'Authorization: Bearer sk-...'.",
    ),
    "unknown": HttpError(401, "invalid_api_key", "Incorrect API key provided."),
    "expired": HttpError(401, "invalid_api_key", "This API key or token has expired."),
    "revoked": HttpError(401, "invalid_api_key", "This API key has been revoked."),
    "mismatched_organization": HttpError(
        401,
        "mismatched_organization",
        "The OpenAI-Organization header must name the organization of the API key, or be left out.",
        param="OpenAI-Organization",
    ),
    "mismatched_project": HttpError(
        401,
        "mismatched_project",
        "The OpenAI-Project header must name the project of the API key or an open one of its organization, "
        "or be left out.",
        param="OpenAI-Project",
    ),
    "issuer_away": HttpError(
        503,
        "identity_provider_unavailable",
        "The token cannot be checked now, as the identity provider does not answer. Try again.",
        type="server_error",
    ),
}


class AccessGate:
    """Lets requests through that show a key; without any keys, those of this machine's own programs and pages."""

    def __init__(self, app: ASGIApp) -> None:
        """Guard the app."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; see ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            refused = await _admit(scope)
        except AppError as error:  # the database is away; the framework's own handlers stand behind this
            refused = error_reply(error)
        await (self._app if refused is None else refused)(scope, receive, send)


def is_open(path: str) -> bool:
    """Tell whether a path, without what the app is mounted at, may be asked for without a key."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)


def asks_more(scope: Scope) -> bool:
    """Tell whether a request asks an open path for what is not for everybody: how each destination does."""
    if path_of(scope) != "/readyz":
        return False
    query: bytes = scope.get("query_string", b"")
    return any(name == "verbose" for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True))


async def _admit(scope: Scope) -> JsonReply | None:
    """Leave the principal in the scope, or return the refusal."""
    opened = is_open(path_of(scope)) and not asks_more(scope)
    access = _access(scope)
    if access is None:
        if opened:
            return None
        # Starlette runs the lifespan of the outermost app only.
        raise RuntimeError("The app was not started: a mounted app needs its lifespan entered by the app around it.")
    if isinstance(scope.get(PRINCIPAL), Principal):
        return None  # an event token, which was judged before
    if not await access.keys_required():
        stranger = foreign_page(
            _text(scope, b"host") or "", _text(scope, b"origin"), changes=scope["method"] not in _READING
        )
        if stranger is not None:
            return http_error_reply(stranger)
    if opened:
        return None
    found = await access.identify(
        Credentials(_bearer_token(scope), _text(scope, b"openai-organization"), _text(scope, b"openai-project"))
    )
    if isinstance(found, Principal):
        scope[PRINCIPAL] = found
        return None
    return refusal_reply(found)


def refusal_reply(refusal: Refusal) -> JsonReply:
    """Return the reply to somebody who is not let in."""
    error = _REFUSALS[refusal.reason]
    headers = {"retry-after": "5"} if error.status == 503 else {"www-authenticate": "Bearer"}
    return JsonReply(ErrorEnvelope(error.body), error.status, headers)


def _access(scope: Scope) -> AccessService | None:
    container: Any = getattr(scope["app"].state, "container", None)
    return None if container is None else container.access


def _bearer_token(scope: Scope) -> str | None:
    kind, _, token = (_text(scope, b"authorization") or "").partition(" ")
    return token.strip() or None if kind.lower() == "bearer" else None


def _text(scope: Scope, name: bytes) -> str | None:
    value = header(scope, name)
    return None if value is None else value.decode("latin-1")
