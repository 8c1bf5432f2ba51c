"""Which upstream models may be called through us."""

import asyncio
import re
import time
from collections.abc import Sequence
from typing import Final

import structlog

from app.domain.errors import ProviderError
from app.domain.gateway_ports import Upstream
from app.domain.models.access import Principal

log = structlog.get_logger(__name__)

_ASK_AGAIN_S: Final = 30.0
"""After the upstream did not tell its models."""


class AllowedModels:
    """The models that the setting names, or that its patterns fit; with neither there are none."""

    def __init__(self, allowed: Sequence[str], upstream: Upstream | None, *, cache_s: float) -> None:
        """`allowed`: names, and patterns in which `*` stands for anything. `cache_s`: how long a list is good."""
        allowed = [name for name in map(str.strip, allowed) if name]
        self._names: Final = [name for name in allowed if "*" not in name]
        self._patterns: Final = [_expression(name) for name in allowed if "*" in name]
        self._upstream = upstream
        self._cache_s = cache_s
        self._asking = asyncio.Lock()
        self._listed: Sequence[str] = ()
        self._good_until = 0.0

    @property
    def any(self) -> bool:
        """Whether there may be one."""
        return self._upstream is not None and bool(self._names or self._patterns)

    def allows(self, model: str, access: Principal) -> bool:
        """Tell whether someone may call a model. Whether it exists is the upstream's to say."""
        if self._upstream is None or not access.may_use_model(model):
            return False
        return model in self._names or any(pattern.fullmatch(model) for pattern in self._patterns)

    async def names(self, access: Principal | None = None) -> Sequence[str]:
        """Return the models that may be called: those named, then those of the upstream's list that a pattern fits.

        An upstream that does not tell its models adds none, or those that it told last. `access` None: for everyone.
        """
        if self._upstream is None:
            return []
        names = dict.fromkeys(self._names)
        if self._patterns:
            listed = await self._upstream_names(self._upstream)
            names.update(dict.fromkeys(name for name in listed if any(one.fullmatch(name) for one in self._patterns)))
        return [name for name in names if access is None or access.may_use_model(name)]

    async def _upstream_names(self, upstream: Upstream) -> Sequence[str]:
        if time.monotonic() < self._good_until:
            return self._listed
        async with self._asking:
            if time.monotonic() >= self._good_until:
                keep_s = self._cache_s
                try:
                    self._listed = tuple(await upstream.model_names())
                except ProviderError as error:
                    log.warning("upstream_models_unknown", code=error.code)
                    keep_s = min(keep_s, _ASK_AGAIN_S)
                self._good_until = time.monotonic() + keep_s
        return self._listed


def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in pattern.split("*")), re.DOTALL)
