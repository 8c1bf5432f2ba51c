"""Signatures of the Standard Webhooks specification."""

import base64
import binascii
from collections.abc import Sequence
from datetime import datetime

from standardwebhooks import Webhook

from app.domain.errors import ConfigurationError

_PREFIX = "whsec_"


def signed_headers(secrets: Sequence[str], message_id: str, at: datetime, body: str) -> dict[str, str]:
    """Return the headers of a request: one signature a secret, so that a receiver may know either of two."""
    signatures = [Webhook(secret).sign(message_id, at, body) for secret in secrets]
    headers = {"webhook-id": message_id, "webhook-timestamp": str(int(at.timestamp()))}
    return headers | {"webhook-signature": " ".join(signatures)} if signatures else headers


def check_secret(secret: str, name: str) -> str:
    """Return a signing secret unchanged.

    Raises:
        ConfigurationError: it is not `whsec_` and the base64 of 24 to 64 bytes; `name` is where it was set.
    """
    try:
        length = len(base64.b64decode(secret.removeprefix(_PREFIX), validate=True))
    except (binascii.Error, ValueError):
        length = 0
    if not secret.startswith(_PREFIX) or not 24 <= length <= 64:
        raise ConfigurationError(f"{name}: a signing secret is 'whsec_' and the base64 of 24 to 64 random bytes.")
    return secret
