"""Takes settings apart into what each part of the system is given; `bootstrap` calls it."""

from app.domain.errors import ConfigurationError
from app.infrastructure.clock import SystemClock
from app.infrastructure.identity.oidc import OidcClaims, OidcTokens, build_tokens
from app.infrastructure.providers.openai.endpoint import EndpointOptions
from app.infrastructure.providers.openai.provider import ProviderOptions
from app.infrastructure.providers.openai.run_config import RunDefaults
from app.services.executions import ExecutionLimits
from app.services.retention import RetentionAges
from app.services.run_log import LogTimes
from app.services.run_requests import RunLimits
from app.settings import Settings


def identity_tokens(settings: Settings) -> OidcTokens | None:
    """Return what checks tokens of the identity provider; None: there is none.

    Raises:
        ConfigurationError: one of the settings that go together is not set.
    """
    oidc = settings.oidc
    needed = {"APP_OIDC_ISSUER": oidc.issuer, "APP_OIDC_AUDIENCE": oidc.audience, "APP_OIDC_JWKS_URL": oidc.jwks_url}
    if not any(needed.values()):
        return None
    if not (oidc.issuer and oidc.audience and oidc.jwks_url):
        missing = next(name for name, value in needed.items() if not value)
        raise ConfigurationError(f"{missing} is not set. Tokens of an identity provider need {', '.join(needed)}.")
    claims = OidcClaims(oidc.issuer, oidc.audience, oidc.organization_claim, oidc.user_claim, oidc.scopes_claim)
    return build_tokens(claims, oidc.jwks_url, SystemClock())


def run_limits(settings: Settings) -> RunLimits:
    """Return what a run's input may be."""
    return RunLimits(
        max_input_bytes=settings.runs.max_input_bytes,
        history_items=settings.runs.history_items,
        sticky_agent=settings.runs.sticky_agent,
        on_busy=settings.runs.on_busy,
    )


def execution_limits(settings: Settings) -> ExecutionLimits:
    """Return what an execution may take."""
    journal = settings.journal
    return ExecutionLimits(
        timeout_s=settings.runs.timeout_s,
        max_attempts=journal.max_attempts,
        approval_timeout_s=journal.approval_timeout_s,
        log=LogTimes(flush_s=journal.flush_ms / 1000, retry_s=journal.retry_s),
    )


def retention_ages(settings: Settings) -> RetentionAges:
    """Return for how long records of runs are kept."""
    journal = settings.journal
    return RetentionAges(
        journal.keep_deltas_d, journal.keep_steps_d, journal.prune_batch_rows, journal.keep_completions_d
    )


def provider_options(settings: Settings) -> ProviderOptions:
    """Return how the provider is set up.

    Raises:
        ConfigurationError: OPENAI_API_KEY is empty.
    """
    endpoint = settings.openai
    key = endpoint.api_key.get_secret_value().strip() if endpoint.api_key is not None else ""
    if endpoint.api_key is not None and not key:
        raise ConfigurationError("OPENAI_API_KEY is set but empty. Set a key, or unset it to use the demo model.")
    return ProviderOptions(
        endpoint=EndpointOptions(
            api_key=key or None,
            base_url=endpoint.base_url,
            organization=endpoint.organization,
            project=endpoint.project,
            api=endpoint.api,
            default_model=endpoint.model,
            request_timeout_s=endpoint.request_timeout_s,
            connect_timeout_s=endpoint.connect_timeout_s,
            max_retries=endpoint.max_retries,
            demo_delay_ms=settings.agents.demo_delay_ms,
        ),
        session_mode=settings.runs.session_mode,
        models=dict(settings.agents.models),
        default_agent=settings.agents.default_agent,
        defaults=RunDefaults(max_turns=settings.runs.max_turns, on_replay_mismatch=settings.journal.on_replay_mismatch),
        trace_export=endpoint.trace_export,
    )
