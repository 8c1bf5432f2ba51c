"""Settings: one section a subject, read once by `bootstrap`, which passes plain values on.

Names that the field knows keep them (`OPENAI_API_KEY`, `DATABASE_URL`, `HOST`, `PORT`, `LOG_LEVEL`); ours begin with
`APP_`. A `.env` file in the working directory is read too; the environment wins. `durable-agents doctor` prints every
value with its source.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from dotenv import dotenv_values
from pydantic import AliasChoices, BaseModel, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.domain.errors import ConfigurationError


def _config(prefix: str) -> SettingsConfigDict:
    return SettingsConfigDict(
        env_prefix=prefix, env_file=".env", extra="ignore", env_nested_delimiter="__", populate_by_name=True
    )


class OpenAISettings(BaseSettings):
    """The model endpoint."""

    model_config = _config("OPENAI_")

    api_key: SecretStr | None = Field(None, description="Key of the endpoint. Unset, and no base URL: the demo model.")
    base_url: str | None = Field(None, description="Any OpenAI-compatible endpoint. Unset: OpenAI's own.")
    organization: str | None = Field(
        None,
        validation_alias=AliasChoices("OPENAI_ORG_ID", "OPENAI_ORG", "OPENAI_ORGANIZATION"),
        description="Sent as OpenAI-Organization.",
    )
    project: str | None = Field(
        None,
        validation_alias=AliasChoices("OPENAI_PROJECT_ID", "OPENAI_PROJECT"),
        description="Sent as OpenAI-Project.",
    )
    model: str = Field("gpt-5.4-mini", description="Model of agents that name none.")
    api: Literal["auto", "responses", "chat_completions"] = Field(
        "auto", description="Wire API. auto: Responses at OpenAI; elsewhere the endpoint is asked once."
    )
    request_timeout_s: float = Field(90.0, gt=0, description="Seconds for one model request, not for a whole run.")
    connect_timeout_s: float = Field(5.0, gt=0, description="Seconds to reach the endpoint.")
    max_retries: int = Field(2, ge=0, le=10, description="Retries of one request; the only place where it is retried.")
    trace_export: bool = Field(
        default=False, description="Also send the SDK's traces to OpenAI. Spans are kept here anyway."
    )


class DatabaseSettings(BaseSettings):
    """The database; SQLite unless a URL says otherwise."""

    model_config = _config("APP_DATABASE_")

    url: SecretStr = Field(
        SecretStr("sqlite:///durable-agents.db"),
        validation_alias=AliasChoices("DATABASE_URL", "APP_DATABASE_URL"),
        description="sqlite:///file.db or postgresql://user:password@host/name.",
    )
    pool_size: int = Field(10, ge=1, le=200, description="Connections kept open; PostgreSQL may use twice as many.")
    pool_timeout_s: float = Field(10.0, gt=0, description="Seconds to wait for a free connection.")
    connect_timeout_s: float = Field(5.0, gt=0, description="Seconds to connect (PostgreSQL).")
    statement_timeout_s: float = Field(15.0, gt=0, description="Seconds for one statement (PostgreSQL).")
    sqlite_busy_timeout_s: float = Field(20.0, gt=0, description="Seconds to wait for SQLite's writer lock.")
    sqlite_synchronous: Literal["NORMAL", "FULL"] = Field(
        "NORMAL", description="NORMAL survives a killed process, FULL also a power cut."
    )


class RunSettings(BaseSettings):
    """Runs."""

    model_config = _config("APP_RUN_")

    max_turns: int = Field(10, ge=1, le=1_000, description="Model calls of one run's loop.")
    timeout_s: float = Field(600.0, gt=0, description="Seconds for a whole run; then it is cancelled.")
    history_items: int = Field(100, ge=0, le=10_000, description="Latest history items that the model sees.")
    max_input_bytes: int = Field(1_000_000, ge=1, description="Bytes of one input as JSON.")
    max_running: int = Field(100, ge=1, description="Runs executed at once by one process; more wait.")
    lease_s: float = Field(15.0, gt=0, description="Seconds until the run of a lost process may be taken over.")
    poll_s: float = Field(0.5, gt=0, description="Seconds between two looks for a run that can go on.")
    shutdown_grace_s: float = Field(
        20.0, ge=0, description="Seconds that running runs get when the process stops; then they are handed back."
    )
    on_busy: Literal["queue", "reject", "interrupt"] = Field(
        "queue", description="What an input does while a run of its conversation is unfinished."
    )
    session_mode: Literal["local", "server"] = Field(
        "local", description="Where the history lives: our tables, or the provider's Conversations API."
    )
    sticky_agent: bool = Field(default=False, description="The agent that answered last gets the next input.")


class JournalSettings(BaseSettings):
    """What is recorded of runs, when, and for how long."""

    model_config = _config("APP_JOURNAL_")

    flush_ms: int = Field(
        75,
        ge=1,
        le=10_000,
        description="Milliseconds until a streamed delta is on disk; ten times that without stream.",
    )
    retry_s: float = Field(
        30.0, gt=0, description="Seconds to try a write again while the database is away; then another process goes on."
    )
    max_attempts: int = Field(5, ge=1, le=100, description="Processes that a run may lose before it is failed.")
    on_replay_mismatch: Literal["continue", "fail"] = Field(
        "continue", description="When a recorded model call does not fit the agent's code any more."
    )
    approval_timeout_s: float = Field(
        604_800.0, gt=0, description="Seconds that an approval stays open; then it counts as rejected."
    )
    keep_deltas_d: float | None = Field(
        7.0, ge=0, description="Days that streamed deltas of a finished run are kept; empty: for ever."
    )
    keep_steps_d: float | None = Field(
        90.0, ge=0, description="Days that steps and events of a finished run are kept; empty: for ever."
    )
    keep_completions_d: float | None = Field(
        30.0,
        ge=0,
        description="Days that completion events are kept when every destination has got them; empty: for ever.",
    )
    prune_every_s: float = Field(
        3_600.0, gt=0, description="Seconds between two deletions of what is too old (server)."
    )
    prune_batch_rows: int = Field(1_000, ge=1, le=100_000, description="Rows deleted by one transaction.")


class ServerSettings(BaseSettings):
    """The HTTP server."""

    model_config = _config("APP_SERVER_")

    host: str = Field(
        "127.0.0.1", validation_alias=AliasChoices("HOST"), description="Address; loopback only until keys exist."
    )
    port: int = Field(
        8000, ge=0, le=65_535, validation_alias=AliasChoices("PORT"), description="Port; 0 for any free one."
    )
    heartbeat_s: float = Field(15.0, gt=0, description="Seconds of silence after which a stream sends a comment.")
    stream_gap_ms: int = Field(
        5, ge=0, le=1_000, description="Milliseconds between two writes of a stream; deltas of one gap go out together."
    )
    max_body_bytes: int = Field(1_100_000, ge=1, description="Bytes of one request body.")
    head_timeout_s: float = Field(
        15.0, gt=0, description="Seconds that a client has to send the first line and the headers of a request."
    )
    body_timeout_s: float = Field(30.0, gt=0, description="Seconds that a client has to send one request body.")
    max_requests: int = Field(
        1_000, ge=1, description="Requests at once, open streams included, by one process; more get 429."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", validation_alias=AliasChoices("LOG_LEVEL"), description="Least severe level that is logged."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="auto: console on a terminal, JSON lines elsewhere."
    )


class GatewaySettings(BaseSettings):
    """Calls to upstream models that pass through us."""

    model_config = _config("APP_GATEWAY_")

    models: str = Field(
        "",
        description="Comma-separated upstream models that may be called; `*` stands for anything. Unset: none.",
    )
    max_calls: int = Field(100, ge=1, description="Calls at once by one process; more get 429.")
    timeout_s: float = Field(600.0, gt=0, description="Seconds for a whole call.")
    chunk_timeout_s: float = Field(
        120.0, gt=0, description="Seconds between two parts of an answer, and for its client to take one."
    )
    stream_usage: bool = Field(
        default=True,
        description="Ask for the usage of streamed chats, for our own record. Off: tokens are counted here.",
    )
    models_cache_s: float = Field(300.0, ge=0, description="Seconds that the upstream's list of models is kept.")
    record: Literal["batched", "before_reply"] = Field(
        "batched",
        description="Record calls in batches behind the replies, or each before its reply's end.",
    )
    flush_ms: int = Field(50, ge=0, le=10_000, description="Milliseconds that a call waits for its batch at most.")
    max_waiting: int = Field(
        10_000, ge=1, description="Calls that wait in memory while the database is away; more are dropped and counted."
    )


class AgentSettings(BaseSettings):
    """Which agents are served."""

    model_config = _config("APP_")

    agents: str = Field(
        "", description="Comma-separated `package.module:attribute` of agents to serve. Unset: the demo agents."
    )
    agents_folder: str | None = Field(None, description="Folder of modules that declare agents.")
    tools_folder: str | None = Field(None, description="Folder of modules that define tools for declared agents.")
    default_agent: str | None = Field(None, description="Key of the agent that answers when a request names none.")
    models: Mapping[str, str] = Field(
        default_factory=dict[str, str],
        description="Models by key, as APP_MODELS__FAST=gpt-5.4-nano, for agents that name a key.",
    )
    demo_delay_ms: int = Field(15, ge=0, description="Milliseconds between two words of the demo model.")


class OidcSettings(BaseSettings):
    """Bearer tokens of an OpenID Connect provider, beside our keys. All of the first three, or none."""

    model_config = _config("APP_OIDC_")

    issuer: str | None = Field(None, description="The `iss` that tokens must have. Unset: our keys only.")
    audience: str | None = Field(None, description="The `aud` that tokens must have.")
    jwks_url: str | None = Field(None, description="Where the provider's public keys are: https, or this machine.")
    organization_claim: str = Field("org_id", min_length=1, description="Claim that names the organization.")
    user_claim: str = Field("sub", min_length=1, description="Claim that names the user.")
    scopes_claim: str = Field(
        "scope", min_length=1, description="Claim that holds the scopes: read, write, usage, admin; others are skipped."
    )


class DeliverySettings(BaseSettings):
    """How completion events get to their destinations; those themselves are in the file of `SCR_CONFIG`."""

    model_config = _config("APP_DELIVERY_")

    poll_s: float = Field(1.0, gt=0, description="Seconds between two looks for events, where nobody told of them.")
    endpoints_s: float = Field(
        5.0, gt=0, description="Seconds between two looks for webhook endpoints that tenants have changed."
    )
    allow_private_webhooks: bool = Field(
        default=False,
        description="Whether tenants' endpoints may be http, and have loopback and private addresses.",
    )


class Settings(BaseModel):
    """All sections."""

    openai: OpenAISettings
    database: DatabaseSettings
    runs: RunSettings
    journal: JournalSettings
    server: ServerSettings
    gateway: GatewaySettings
    agents: AgentSettings
    oidc: OidcSettings
    delivery: DeliverySettings


def load_settings(**overrides: Mapping[str, Any]) -> Settings:
    """Read all sections from the environment; an override is a mapping of fields of one section, by its name.

    Raises:
        ConfigurationError: a value is wrong; the message names the variable and what it may be.
    """
    sections: dict[str, type[BaseSettings]] = {
        "openai": OpenAISettings,
        "database": DatabaseSettings,
        "runs": RunSettings,
        "journal": JournalSettings,
        "server": ServerSettings,
        "gateway": GatewaySettings,
        "agents": AgentSettings,
        "oidc": OidcSettings,
        "delivery": DeliverySettings,
    }
    loaded: dict[str, BaseSettings] = {}
    for name, section in sections.items():
        try:
            loaded[name] = section(**overrides.get(name, {}))
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            field = str(first["loc"][0]) if first["loc"] else name
            variable = field if field.isupper() else variable_of(section, field)
            raise ConfigurationError(f"{variable}: {first['msg']}.") from error
    return Settings(**loaded)  # pyright: ignore[reportArgumentType] - the keys are the fields


def variable_of(section: type[BaseSettings], field: str) -> str:
    """Return the environment variable that sets a field."""
    info = section.model_fields.get(field)
    alias = None if info is None else info.validation_alias
    if isinstance(alias, AliasChoices):
        return str(alias.choices[0])
    return f"{section.model_config.get('env_prefix', '')}{field}".upper()


@dataclass(frozen=True, slots=True)
class SettingReport:
    """One setting as `doctor` prints it."""

    variable: str
    value: str
    default: str
    source: str
    """`environment`, `.env`, `command line`, `default`, or file and line."""
    description: str


def report(settings: Settings) -> Iterator[SettingReport]:
    """Yield every setting with its source; secrets are masked."""
    for name in Settings.model_fields:
        yield from report_section(getattr(settings, name))


def report_section(section: BaseSettings, file: Mapping[str, str] | None = None) -> Iterator[SettingReport]:
    """Yield the settings of one section; `file`: where a field is set in a file, for those that are."""
    dotenv = _dotenv_names()
    for field, info in type(section).model_fields.items():
        variable = variable_of(type(section), field)
        value = getattr(section, field)
        default = info.get_default(call_default_factory=True)
        names = _names_of(info, variable)
        if _sets(names, os.environ, section):
            source = "environment"
        elif _sets(names, dotenv, section):
            source = ".env"
        elif file is not None and field in file:
            source = file[field]
        else:
            source = "default" if value == default else "command line"
        yield SettingReport(variable, masked(value), masked(default), source, info.description or "")


def masked(value: object) -> str:
    """Return a value for people: secrets keep their last four characters, URLs lose their user, password and query."""
    if isinstance(value, tuple):
        return ",".join(str(part) for part in cast("tuple[object, ...]", value))
    text = value.get_secret_value() if isinstance(value, SecretStr) else "" if value is None else str(value)
    if "://" in text:
        scheme, _, rest = text.partition("://")
        place, separator, _ = rest.rpartition("@")[2].partition("?")
        return f"{scheme}://{'***@' if '@' in rest else ''}{place}{'?***' if separator else ''}"
    if isinstance(value, SecretStr):
        return f"***{text[-4:]}" if len(text) > 12 else "***"
    return text


def _names_of(info: FieldInfo, variable: str) -> set[str]:
    """Return all variables that set a field, in upper case."""
    alias = info.validation_alias
    return (
        {variable, *(str(choice).upper() for choice in alias.choices)}
        if isinstance(alias, AliasChoices)
        else {variable}
    )


def _sets(names: set[str], known: Mapping[str, str | None], section: BaseSettings) -> bool:
    ignores_empty = section.model_config.get("env_ignore_empty", False)
    found = (name.upper() for name, value in known.items() if value or not ignores_empty)
    return any(name in names or name.partition("__")[0] in names for name in found)


def _dotenv_names() -> Mapping[str, str | None]:
    try:
        return dotenv_values(".env")
    except OSError:
        return {}
