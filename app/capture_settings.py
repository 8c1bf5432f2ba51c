"""Settings of completion capture: the `SCR_*` variables, and the file that `SCR_CONFIG` names; variables win."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import yaml
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.domain.errors import ConfigurationError
from app.domain.models.deliveries import DestinationKind, DestinationSettings, OrderingKey, Scrubbing

ROOT: Final = "session_completion_runtime"
_Section = TypeVar("_Section", bound=BaseModel)
_Place = tuple[str | int, ...]


class CaptureSettings(BaseSettings):
    """How events are captured, and how they leave the process."""

    model_config = SettingsConfigDict(
        env_prefix="SCR_", env_file=".env", extra="ignore", populate_by_name=True, frozen=True
    )

    api_key: SecretStr | None = Field(None, description="Key of the server that events are sent to.")
    endpoint: str | None = Field(
        None, description="URL of that server. Unset: events wait in the spool for a relay on this machine."
    )
    timeout_ms: int = Field(100, ge=1, le=600_000, description="Milliseconds for one request; doubled after each late.")
    enabled: bool = Field(default=True, description="Whether events are captured; a change counts at once.")
    batch_size: int = Field(100, ge=1, le=10_000, description="Events of one request, or one transaction.")
    flush_interval_ms: int = Field(
        1_000, ge=0, le=3_600_000, description="Milliseconds between two looks for events to send."
    )
    async_routing: bool = Field(
        default=True, description="Off: awaiting a capture waits until its event was sent, for the timeout at most."
    )
    mode: Literal["memory", "spool", "fsync"] = Field("spool", description="Where an event is when capture returns.")
    spool_dir: Path = Field(Path("scr-spool"), description="Folder of the spool.")
    spool_max_bytes: int = Field(
        1 << 30, ge=1 << 16, description="Bytes of the spool; events beyond are dropped and counted."
    )
    buffer_max_size: int = Field(10_000, ge=1, description="Events that mode memory keeps; more are dropped.")
    compression: bool = Field(default=True, description="Whether requests are compressed.")
    drain_ms: int = Field(2_000, ge=0, description="Milliseconds that an ending process sends what waits.")


@dataclass(frozen=True, slots=True)
class CaptureConfiguration:
    """Everything that the variables and the file say."""

    capture: CaptureSettings
    destinations: tuple[DestinationSettings, ...] = ()
    monitoring: "Monitoring" = field(default_factory=lambda: Monitoring())
    replicas: int = 1
    """Servers that the operator means to run; told to people, and changes nothing here."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Monitoring(_Strict):
    """Where the service is watched."""

    metrics_port: int = Field(9090, ge=0, le=65_535)
    health_check_port: int = Field(8080, ge=0, le=65_535)
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class _CaptureFile(_Strict):
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


class _Optimization(_Strict):
    async_mode: bool | None = None
    compression: bool | None = None


class _Scaling(_Strict):
    replicas: int = Field(1, ge=1)
    partitioning_key: OrderingKey | None = None


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_Names = Annotated[tuple[str, ...], BeforeValidator(_one_or_many)]


class _Scrubbing(_Strict):
    content: bool = False
    allow: _Names | None = None
    patterns: _Names = ("secrets",)


class _Destination(_Strict):
    name: str = Field(min_length=1, max_length=128)
    kind: DestinationKind = Field("http", validation_alias=AliasChoices("kind", "type"))
    endpoint: str = ""
    transform: str = "event_v1"
    retry_attempts: int = Field(5, ge=1, le=1_000)
    timeout_ms: int = Field(5_000, ge=1)
    sampling_rate: float = Field(1.0, ge=0, le=1)
    batch_size: int = Field(1, ge=1, le=10_000)
    concurrency: int = Field(4, ge=1, le=1_000)
    ordering_key: OrderingKey | None = None
    retention_days: float | None = Field(30.0, ge=0)
    give_up_after_s: float = Field(72 * 3_600.0, gt=0)
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


class _File(_Strict):
    capture: _CaptureFile = _CaptureFile()
    destinations: tuple[_Destination, ...] = ()
    monitoring: Monitoring = Monitoring()
    scaling: _Scaling = _Scaling()
    optimization: _Optimization = _Optimization()


class _Root(_Strict):
    session_completion_runtime: _File = _File()


@dataclass(frozen=True, slots=True)
class _Yaml:
    """A file's values, and the line of each."""

    name: str
    values: Any
    lines: Mapping[_Place, int]

    def error(self, place: _Place, message: str) -> ConfigurationError:
        """Return the error about a place; one that is not in the file stands where its parent does."""
        known = place
        while known and known not in self.lines:
            known = known[:-1]
        key = ".".join(str(part) for part in place) or ROOT
        return ConfigurationError(f"{self.name}, line {self.lines.get(known, 1)}: {key}: {message}.")


def load_capture(environment: Mapping[str, str] | None = None, **overrides: Any) -> CaptureConfiguration:
    """Read variables and file; an override is a field of `CaptureSettings`, None: not given. Overrides win.

    `environment` is asked for `SCR_CONFIG` only; the default is the process's own.

    Raises:
        ConfigurationError: a value is wrong; the message names the variable, or the file's line and key.
    """
    path = (os.environ if environment is None else environment).get("SCR_CONFIG")
    file = _read(Path(path)) if path else _Yaml("", None, {})
    told = _validated(_Root, file).session_completion_runtime
    values: dict[str, Any] = {name: value for name, value in told.capture if value is not None}
    places: dict[str, _Place] = {name: (ROOT, "capture", name) for name in values}
    for name, key in (("async_mode", "async_routing"), ("compression", "compression")):
        value = getattr(told.optimization, name)
        if value is not None:
            values[key], places[key] = value, (ROOT, "optimization", name)
    given = {name: value for name, value in overrides.items() if value is not None}
    partitioning = told.scaling.partitioning_key
    names = [one.name for one in told.destinations]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise file.error((ROOT, "destinations", index, "name"), f"there are two destinations '{name}'")
    return CaptureConfiguration(
        capture=_capture(file, values, places, given),
        destinations=tuple(one.settings(partitioning) for one in told.destinations),
        monitoring=told.monitoring,
        replicas=told.scaling.replicas,
    )


def _capture(
    file: _Yaml, values: Mapping[str, Any], places: Mapping[str, _Place], given: Mapping[str, Any]
) -> CaptureSettings:
    try:
        from_environment = CaptureSettings(**given)
        set_elsewhere = from_environment.model_fields_set
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        name = str(first["loc"][0])
        where = name if name in given else f"SCR_{name.upper()}"
        raise ConfigurationError(f"{where}: {first['msg']}.") from error
    rest = {name: value for name, value in values.items() if name not in set_elsewhere}
    try:
        settings = CaptureSettings(**{**rest, **given})
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise file.error(places[str(first["loc"][0])], first["msg"]) from error
    if settings.endpoint is not None and not settings.endpoint.startswith(("https://", "http://")):
        if "endpoint" in rest:
            raise file.error(places["endpoint"], "a URL that begins with https:// is needed")
        raise ConfigurationError("SCR_ENDPOINT: a URL that begins with https:// is needed.")
    return settings


def _validated(section: type[_Section], file: _Yaml) -> _Section:
    try:
        return section.model_validate({} if file.values is None else file.values)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        unknown = first["type"] == "extra_forbidden"
        raise file.error(tuple(first["loc"]), "there is no such key" if unknown else first["msg"]) from error


def _read(path: Path) -> _Yaml:
    try:
        text = path.read_text("utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"SCR_CONFIG: '{path}' cannot be read: {type(error).__name__}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = 1 if mark is None else mark.line + 1
        raise ConfigurationError(f"{path.name}, line {line}: not YAML: {getattr(error, 'problem', error)}.") from error
    lines: dict[_Place, int] = {}
    if node is not None:
        _note_lines(node, (), lines)
    return _Yaml(path.name, values, lines)


def _note_lines(node: yaml.Node, place: _Place, lines: dict[_Place, int]) -> None:
    lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*place, str(key.value))
            lines[inner] = key.start_mark.line + 1
            _note_lines(value, inner, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _note_lines(value, (*place, index), lines)
