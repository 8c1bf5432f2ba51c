"""Takes out of JSON values what must not leave: fields that are not allowed, secrets, personal data."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from app.domain.errors import ConfigurationError
from app.domain.models.deliveries import Scrubbing

SECRETS: Final[Mapping[str, str]] = {
    "private_key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
    "openai_key": r"\bsk-[A-Za-z0-9_-]{16,}",
    "webhook_secret": r"\bwhsec_[A-Za-z0-9+/=_-]{16,}",
    "aws_key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "github_token": r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})",
    "slack_token": r"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "google_key": r"\bAIza[A-Za-z0-9_-]{30,}",
    "jwt": r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
    "bearer": r"(?i)\b(?:bearer|basic)\s+[A-Za-z0-9._~+/-]{16,}=*",
    "url_password": r"(?<=://)[^\s/@:]{1,64}:[^\s/@]{1,256}(?=@)",
}
PII: Final[Mapping[str, str]] = {
    "email": r"\b[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}\b",
    "card": r"\b\d(?:[ -]?\d){12,18}\b",
    "iban": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b",
    "ssn": r"\b\d{3}-\d{2}-\d{4}\b",
    "phone": r"(?<![\w.])\+\d(?:[ ()/-]?\d){6,14}\b",
    "ipv4": r"\b(?:\d{1,3}\.){3}\d{1,3}\b",
}
GROUPS: Final[Mapping[str, Mapping[str, str]]] = {"secrets": SECRETS, "pii": PII}
CONTENT_FIELDS: Final = frozenset({"content", "final_message", "final_output", "messages"})
"""Fields that hold what was said; they leave only where content is allowed."""


class Scrubber:
    """Applies one set of rules. A body is never changed in place."""

    def __init__(self, rules: Scrubbing) -> None:
        """Compile the rules.

        Raises:
            ConfigurationError: a pattern is neither a group nor a name.
        """
        self._rules = rules
        self._patterns: list[tuple[str, re.Pattern[str]]] = [
            (name, re.compile(source)) for name, source in _named(rules.patterns)
        ]
        self._allowed = None if rules.allow is None else [tuple(path.split(".")) for path in rules.allow]

    def scrub(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return what of a body may leave."""
        kept: Any = dict(body)
        if not self._rules.content:
            kept = _without_content(kept)
        if self._allowed is not None:
            kept = _only(kept, self._allowed)
        return self._redacted(kept) if self._patterns else kept

    def _redacted(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return {self._text(str(key)): self._redacted(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._redacted(inner) for inner in value]
        return value

    def _text(self, text: str) -> str:
        for name, pattern in self._patterns:
            text = pattern.sub(_card if name == "card" else f"[redacted:{name}]", text)
        return text


def _named(names: Iterable[str]) -> list[tuple[str, str]]:
    every = {**SECRETS, **PII}
    found: dict[str, str] = {}
    for name in names:
        if name in GROUPS:
            found.update(GROUPS[name])
        elif name in every:
            found[name] = every[name]
        else:
            known = ", ".join([*GROUPS, *every])
            raise ConfigurationError(f"There is no scrubbing pattern '{name}'. Known: {known}.")
    return list(found.items())


def _without_content(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_content(inner) for key, inner in value.items() if key not in CONTENT_FIELDS}
    if isinstance(value, list | tuple):
        return [_without_content(inner) for inner in value]
    return value


def _only(value: Any, paths: Sequence[tuple[str, ...]]) -> Any:
    """Return a value with the named fields alone; a list is looked through item by item."""
    if any(not path for path in paths):
        return value
    if isinstance(value, list | tuple):
        return [_only(inner, paths) for inner in value]
    if not isinstance(value, Mapping):
        return None
    kept: dict[str, Any] = {}
    for key, inner in value.items():
        below = [path[1:] for path in paths if path[0] == key]
        if below:
            kept[key] = _only(inner, below)
    return kept


def _card(match: re.Match[str]) -> str:
    """Replace a number only if its check digit is right: order numbers are as long."""
    digits = [int(digit) for digit in match.group() if digit.isdigit()]
    doubled = [digit if index % 2 == 0 else sum(divmod(digit * 2, 10)) for index, digit in enumerate(reversed(digits))]
    return "[redacted:card]" if sum(doubled) % 10 == 0 else match.group()
