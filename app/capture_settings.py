"""Settings of completion capture: the `SCR_*` variables, and the file that `SCR_CONFIG` names; variables win.

`load_capture` reads both. Every error names the variable, or the file with line and key, and never a value.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, cast

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.domain.errors import ConfigurationError
from app.domain.models.deliveries import DestinationKind, DestinationSettings, OrderingKey, Scrubbing
from app.domain.scrubbing import Scrubber
from app.infrastructure.yaml_file import Place, YamlFile, read_yaml

ROOT: Final = "session_completion_runtime"
BROWSER_VARIABLES: Final[Mapping[str, str]] = {
    "VITE_SCR_API_KEY": "Key in a web page's build, which anybody can read: a short-lived token, never a secret key.",
    "VITE_SCR_ENDPOINT": "URL of the server, in a web page's build.",
}
"""Variables that only the browser's build reads, with their effect."""
_Section = TypeVar("_Section", bound=BaseModel)
_KINDS: Final[Mapping[str, str]] = {
    "string_pattern_mismatch": "a URL that begins with https:// is needed",
    "model_type": "a mapping of keys is needed",
    "dict_type": "a mapping of keys is needed",
    "tuple_type": "a list is needed",
    "extra_forbidden": "there is no such key",
    "missing": "it is missing",
}


def _number(value: Any) -> Any:
    """Refuse `yes` and `off`, which YAML reads as truth values and numbers would take for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("a number is needed")
    return value


def _named(value: Any) -> Any:
    """Return a list of names from one, from several with commas, or from a truth value: all, or none."""
    if isinstance(value, str) and value.strip().lower() in {"true", "false"}:
        value = value.strip().lower() == "true"
    if isinstance(value, bool):
        return ("secrets", "pii") if value else ()
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_Int = Annotated[int, BeforeValidator(_number)]
_Float = Annotated[float, BeforeValidator(_number)]
_Names = Annotated[tuple[str, ...], BeforeValidator(_one_or_many)]
_Patterns = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_named)]


class _Variables(BaseSettings):
    # An empty variable is one that is not set: container tools cannot leave one out.
    model_config = SettingsConfigDict(
        env_prefix="SCR_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        populate_by_name=True,
        frozen=True,
        hide_input_in_errors=True,
    )


class CaptureSettings(_Variables):
    """How events are captured, and how they leave the process."""

    config: Path | None = Field(None, description="YAML file with destinations and defaults of these variables.")
    api_key: SecretStr | None = Field(None, description="Key of the server that events are sent to.")
    endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^\s/?#]",
        description="URL of that server. Unset: events wait in the spool for a server on this machine.",
    )
    timeout_ms: _Int = Field(100, ge=1, le=600_000, description="Milliseconds for one request; more after each late.")
    enabled: bool = Field(
        default=True, description="Off: nothing is captured, nor taken from the spool; what is there stays."
    )
    batch_size: _Int = Field(100, ge=1, le=10_000, description="Events of one request at most.")
    flush_interval_ms: _Int = Field(
        1_000, ge=0, le=3_600_000, description="Milliseconds between two looks for events to send; 0: at once."
    )
    async_routing: bool = Field(
        default=True, description="Off: awaiting a capture waits until its event was sent, for the timeout at most."
    )
    mode: Literal["memory", "spool", "fsync"] = Field("spool", description="Where an event is when capture returns.")
    spool_dir: Path = Field(
        Path("scr-spool"), description="Folder of the spool. A server empties it if this is set, or it is there."
    )
    spool_max_bytes: _Int = Field(
        1 << 30, ge=1 << 16, description="Bytes of the spool; events beyond are dropped and counted."
    )
    buffer_max_size: _Int = Field(10_000, ge=1, description="Events that mode memory keeps; more are dropped.")
    compression: bool = Field(default=True, description="Whether requests are compressed.")
    drain_ms: _Int = Field(2_000, ge=0, description="Milliseconds that an ending process sends what waits.")
    allowed_origins: str = Field(
        "", description="Origins, comma-separated, whose pages may read replies to events that they send."
    )
    scrub_before_store: _Patterns = Field(
        (), description="What is replaced before events are kept: `secrets`, `pii`, single patterns; true: both."
    )

    @field_validator("api_key")
    @classmethod
    def _fit_for_a_header(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and re.fullmatch(r"[\x21-\x7e]+", key.get_secret_value()) is None:
            raise ValueError("it has other than visible ASCII characters")
        return key

    @field_validator("scrub_before_store")
    @classmethod
    def _known(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        try:
            Scrubber(Scrubbing(patterns=patterns))
        except ConfigurationError as error:
            raise ValueError(error.public_message.removesuffix(".")) from error
        return patterns


class Monitoring(_Variables):
    """Where the service is watched. A port of its own serves that alone, beside the server's port."""

    metrics_port: _Int | None = Field(None, ge=0, le=65_535, description="Port for `/metrics` alone; 0 for any free.")
    health_check_port: _Int | None = Field(
        None, ge=0, le=65_535, description="Port for `/health`, `/healthz`, `/readyz` alone; 0 for any free."
    )
    log_level: Literal["debug", "info", "warning", "error"] | None = Field(
        None, description="Least severe level that the server logs, where LOG_LEVEL is not set."
    )


@dataclass(frozen=True, slots=True)
class CaptureConfiguration:
    """Everything that the variables and the file say."""

    capture: CaptureSettings = field(default_factory=CaptureSettings.model_construct)
    destinations: tuple[DestinationSettings, ...] = field(default=(), repr=False)
    """Not in texts: they hold secrets."""
    monitoring: Monitoring = field(default_factory=Monitoring.model_construct)
    replicas: int = 1
    """Servers that the operator means to run; told to people, and changes nothing here."""
    sources: Mapping[str, str] = field(default_factory=dict[str, str])
    """Where in the file a field of `capture` or `monitoring` is set, for those that are."""
    file: "YamlFile | None" = field(default=None, repr=False)

    def error(self, destination: str, message: str) -> ConfigurationError:
        """Return an error about a destination, with file and line; a message may begin with its dotted key."""
        if self.file is None:
            return ConfigurationError(message)
        names = [one.name for one in self.destinations]
        place: Place = (ROOT, "destinations", *([names.index(destination)] if destination in names else []))
        prefix = f"destinations.{destination}."
        if message.startswith(prefix):
            place = (*place, *message.removeprefix(prefix).partition(":")[0].split("."))
        return ConfigurationError(f"{self.file.where(place)}: {message}")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class _CaptureSection(_Strict):
    """What of `CaptureSettings` may stand in the file; its values are checked there."""

    enabled: Any = None
    batch_size: Any = None
    flush_interval_ms: Any = None
    buffer_max_size: Any = None
    mode: Any = None
    spool_dir: Any = None
    spool_max_bytes: Any = None
    drain_ms: Any = None
    endpoint: Any = None
    timeout_ms: Any = None
    allowed_origins: Any = None
    scrub_before_store: Any = None


class _MonitoringSection(_Strict):
    metrics_port: Any = None
    health_check_port: Any = None
    log_level: Any = None


class _Optimization(_Strict):
    async_mode: Any = None
    compression: Any = None


class _Scaling(_Strict):
    replicas: _Int = Field(1, ge=1)
    partitioning_key: OrderingKey | None = None


class _Scrubbing(_Strict):
    content: bool = False
    allow: _Names | None = None
    patterns: _Names = ("secrets",)


class _Destination(_Strict):
    name: str = Field(min_length=1, max_length=128)
    kind: DestinationKind = Field("http", validation_alias=AliasChoices("kind", "type"))
    endpoint: str = ""
    transform: str = "event_v1"
    retry_attempts: _Int = Field(5, ge=1, le=1_000)
    timeout_ms: _Int = Field(5_000, ge=1, le=600_000)
    sampling_rate: _Float = Field(1.0, ge=0, le=1)
    batch_size: _Int = Field(1, ge=1, le=10_000)
    concurrency: _Int = Field(4, ge=1, le=1_000)
    ordering_key: OrderingKey | None = None
    retention_days: _Float | None = Field(30.0, ge=0, le=36_500)
    give_up_after_s: _Float = Field(72 * 3_600.0, gt=0)
    event_types: _Names = ()
    organization_id: str | None = None
    start_at: Literal["earliest", "latest"] = "earliest"
    scrubbing: _Scrubbing = _Scrubbing()
    secrets: _Names = ()
    headers: dict[str, str] = Field(default_factory=dict[str, str])
    options: dict[str, Any] = Field(default_factory=dict[str, Any])

    def settings(self, ordering_key: OrderingKey | None) -> DestinationSettings:
        """Return the description; `ordering_key`: for a destination that names none."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        values["scrubbing"] = Scrubbing(**self.scrubbing.model_dump())
        values["ordering_key"] = self.ordering_key or ordering_key or "session_id"
        return DestinationSettings(**values)


class _Sections(_Strict):
    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, value: Any) -> Any:
        """Leave out sections with nothing in them, as they are when all their lines are comments."""
        if not isinstance(value, dict):
            return value
        items = cast("dict[Any, Any]", value).items()
        return {key: inner for key, inner in items if inner is not None or key not in cls.model_fields}


class CaptureFile(_Sections):
    """What may stand under `session_completion_runtime` in the file."""

    capture: _CaptureSection = _CaptureSection()
    destinations: tuple[_Destination, ...] = ()
    monitoring: _MonitoringSection = _MonitoringSection()
    scaling: _Scaling = Field(default_factory=_Scaling.model_construct)
    optimization: _Optimization = _Optimization()


class _Root(_Sections):
    session_completion_runtime: CaptureFile = CaptureFile()


def load_capture(**overrides: Any) -> CaptureConfiguration:
    """Read variables and file; an override is a field of `CaptureSettings`, None: not given. Overrides win.

    Raises:
        ConfigurationError: a value is wrong; the message names the variable, or the file's line and key.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    told = _from_variables(CaptureSettings, given)
    file = YamlFile("", None, {}) if told.config is None else read_yaml(told.config, "SCR_CONFIG")
    section = _validated(_Root, file).session_completion_runtime
    _check_names(section, file)
    capture: dict[str, tuple[Place, Any]] = {
        name: ((ROOT, "capture", name), value) for name, value in section.capture if value is not None
    }
    for name, key in (("async_mode", "async_routing"), ("compression", "compression")):
        value = getattr(section.optimization, name)
        if value is not None:
            capture[key] = ((ROOT, "optimization", name), value)
    watched: dict[str, tuple[Place, Any]] = {
        name: ((ROOT, "monitoring", name), value) for name, value in section.monitoring if value is not None
    }
    return CaptureConfiguration(
        capture=_with_file(told, given, file, capture),
        destinations=tuple(one.settings(section.scaling.partitioning_key) for one in section.destinations),
        monitoring=_with_file(_from_variables(Monitoring, {}), {}, file, watched),
        replicas=section.scaling.replicas,
        sources={name: file.where(place) for name, (place, _) in {**capture, **watched}.items()},
        file=None if told.config is None else file,
    )


def _check_names(section: CaptureFile, file: YamlFile) -> None:
    names = [one.name for one in section.destinations]
    for index, name in enumerate(names):
        if name in names[:index]:
            first = file.where((ROOT, "destinations", names.index(name), "name"))
            raise file.error((ROOT, "destinations", index, "name"), f"another destination has it: {first}")


_Told = TypeVar("_Told", bound=_Variables)


def _from_variables(section: type[_Told], given: Mapping[str, Any]) -> _Told:
    try:
        return section(**given)
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False)[0]
        name = str(first["loc"][0])
        where = name if name in given else f"SCR_{name.upper()}"
        raise ConfigurationError(f"{where}: {_told(first)}.") from None  # the cause holds the value
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f".env: it cannot be read: {type(error).__name__}.") from error


def _with_file(told: _Told, given: Mapping[str, Any], file: YamlFile, values: Mapping[str, tuple[Place, Any]]) -> _Told:
    """Return the settings with the file's values for what neither a variable nor an override has set."""
    rest = {name: value for name, (_, value) in values.items() if name not in told.model_fields_set}
    try:
        return type(told)(**{**rest, **given})
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False)[0]
        raise file.error(values[str(first["loc"][0])][0], _told(first)) from None  # the cause holds the value


def _validated(section: type[_Section], file: YamlFile) -> _Section:
    try:
        return section.model_validate({} if file.values is None else file.values)
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False)[0]
        raise file.error(tuple(first["loc"]), _told(first)) from None  # the cause holds the value


def _told(first: ErrorDetails) -> str:
    """Return what is wrong, without the value."""
    return _KINDS.get(first["type"], first["msg"].removeprefix("Value error, "))
