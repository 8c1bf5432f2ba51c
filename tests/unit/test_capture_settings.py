"""The `SCR_*` variables and the file: what they may be, who wins, and how an error tells where it is."""

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.capture_settings import BROWSER_VARIABLES, CaptureConfiguration, CaptureSettings, Monitoring, load_capture
from app.domain.errors import ConfigurationError
from app.domain.models.deliveries import Scrubbing
from app.settings import report_section

AS_DOCUMENTED = """\
# scr-config.yaml
session_completion_runtime:
  capture:
    enabled: true
    batch_size: 100
    flush_interval_ms: 1000
    buffer_max_size: 10000

  destinations:
    - name: billing
      endpoint: https://billing.internal/api/v1/events
      transform: billing_v1
      retry_attempts: 3
      timeout_ms: 500

    - name: analytics
      endpoint: https://analytics.internal/ingest
      transform: analytics_v2
      retry_attempts: 2
      timeout_ms: 200
      sampling_rate: 1.0  # 100% of events

    - name: audit
      endpoint: https://compliance.internal/audit
      transform: audit_v1
      retry_attempts: 5
      timeout_ms: 1000
      retention_days: 2555  # 7 years

  monitoring:
    metrics_port: 9090
    health_check_port: 8080
    log_level: info
"""
HIGH_THROUGHPUT = """\
# High-throughput configuration
session_completion_runtime:
  capture:
    batch_size: 1000
    flush_interval_ms: 100
    buffer_max_size: 100000

  scaling:
    replicas: 10
    partitioning_key: user_id  # Distribute by user
"""
LOW_LATENCY = """\
# Low-latency configuration
session_completion_runtime:
  capture:
    batch_size: 1  # No batching
    flush_interval_ms: 0  # Immediate flush

  optimization:
    async_mode: true  # Don't block on routing
    compression: false  # Skip compression overhead
"""
ONE = """\
session_completion_runtime:
  destinations:
    - name: audit
      kind: jsonl
      endpoint: audit.jsonl
"""
SECRET = "hunter2-is-secret"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("SCR_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    def loaded(text: str, **overrides: Any) -> CaptureConfiguration:
        (tmp_path / "scr.yaml").write_text(text, "utf-8")
        monkeypatch.setenv("SCR_CONFIG", str(tmp_path / "scr.yaml"))
        return load_capture(**overrides)

    return loaded


def refused(load: Any, text: str) -> str:
    with pytest.raises(ConfigurationError) as wrong:
        load(text)
    # Neither the message nor what a traceback would print of its causes holds a value.
    error: BaseException | None = wrong.value
    while error is not None:
        assert SECRET not in str(error)
        error = error.__cause__
    return wrong.value.public_message


def test_without_variables_and_file_the_defaults_of_the_document_hold() -> None:
    told = load_capture()
    capture = told.capture
    assert (capture.timeout_ms, capture.enabled, capture.batch_size, capture.flush_interval_ms) == (
        100,
        True,
        100,
        1000,
    )
    assert (capture.api_key, capture.endpoint, capture.config) == (None, None, None)
    assert (capture.mode, capture.buffer_max_size, capture.async_routing) == ("spool", 10_000, True)
    assert (told.destinations, told.monitoring.metrics_port, told.replicas) == ((), None, 1)
    assert CaptureConfiguration().capture == capture


@pytest.mark.parametrize(
    ("variable", "value", "field", "expected"),
    [
        ("SCR_ENDPOINT", "https://scr.prod.internal:8443", "endpoint", "https://scr.prod.internal:8443"),
        ("SCR_TIMEOUT_MS", "250", "timeout_ms", 250),
        ("SCR_ENABLED", "false", "enabled", False),
        ("SCR_BATCH_SIZE", "7", "batch_size", 7),
        ("SCR_FLUSH_INTERVAL_MS", "0", "flush_interval_ms", 0),
        ("SCR_ASYNC_ROUTING", "false", "async_routing", False),
        ("SCR_MODE", "fsync", "mode", "fsync"),
        ("SCR_SPOOL_DIR", "/var/spool/scr", "spool_dir", Path("/var/spool/scr")),
        ("SCR_SPOOL_MAX_BYTES", "65536", "spool_max_bytes", 65_536),
        ("SCR_BUFFER_MAX_SIZE", "5", "buffer_max_size", 5),
        ("SCR_COMPRESSION", "no", "compression", False),
        ("SCR_DRAIN_MS", "0", "drain_ms", 0),
        ("SCR_SCRUB_BEFORE_STORE", "secrets, email", "scrub_before_store", ("secrets", "email")),
        ("SCR_SCRUB_BEFORE_STORE", "true", "scrub_before_store", ("secrets", "pii")),
        ("SCR_SCRUB_BEFORE_STORE", "false", "scrub_before_store", ()),
    ],
)
def test_every_variable_is_read(
    variable: str, value: str, field: str, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert getattr(load_capture().capture, field) == expected
    monkeypatch.setenv(variable, "")  # as compose files and pods pass what is not set
    assert getattr(load_capture().capture, field) == getattr(CaptureSettings.model_construct(), field)


def test_the_variables_of_the_ports_win_over_the_file(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(AS_DOCUMENTED).monitoring == Monitoring(metrics_port=9090, health_check_port=8080, log_level="info")
    monkeypatch.setenv("SCR_METRICS_PORT", "9191")
    monkeypatch.setenv("SCR_HEALTH_CHECK_PORT", "0")
    monkeypatch.setenv("SCR_LOG_LEVEL", "debug")
    told = load(AS_DOCUMENTED).monitoring
    assert (told.metrics_port, told.health_check_port, told.log_level) == (9191, 0, "debug")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SCR_ENDPOINT", "scr.prod.internal"),
        ("SCR_ENDPOINT", "ftp://host"),
        ("SCR_TIMEOUT_MS", "soon"),
        ("SCR_TIMEOUT_MS", "0"),
        ("SCR_ENABLED", "perhaps"),
        ("SCR_BATCH_SIZE", "0"),
        ("SCR_FLUSH_INTERVAL_MS", "-1"),
        ("SCR_MODE", "disk"),
        ("SCR_SPOOL_MAX_BYTES", "1"),
        ("SCR_SCRUB_BEFORE_STORE", "everything"),
        ("SCR_METRICS_PORT", "70000"),
        ("SCR_LOG_LEVEL", "loud"),
        ("SCR_API_KEY", f"{SECRET}\nx-injected: 1"),
    ],
)
def test_a_wrong_variable_is_named_and_its_value_is_not(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as wrong:
        load_capture()
    assert wrong.value.public_message.startswith(f"{variable}: ")
    assert wrong.value.public_message.endswith(".")
    assert SECRET not in wrong.value.public_message
    assert wrong.value.__cause__ is None  # pydantic's own error would print the value


def test_an_override_wins_and_is_named_by_its_field(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCR_BATCH_SIZE", "7")
    told = load("session_completion_runtime: {capture: {batch_size: 5, timeout_ms: 5}}", batch_size=9, endpoint=None)
    assert (told.capture.batch_size, told.capture.timeout_ms, told.capture.endpoint) == (9, 5, None)
    with pytest.raises(ConfigurationError, match=r"^batch_size: "):
        load_capture(batch_size=0)


def test_variables_win_over_the_file_which_wins_over_defaults(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "session_completion_runtime: {capture: {batch_size: 5, mode: memory}, optimization: {async_mode: no}}"
    monkeypatch.setenv("SCR_BATCH_SIZE", "100")  # the default, but said
    told = load(text).capture
    assert (told.batch_size, told.mode, told.async_routing, told.timeout_ms) == (100, "memory", False, 100)


def test_the_file_of_variables_counts_too_and_may_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "scr.yaml").write_text("session_completion_runtime: {capture: {batch_size: 5, timeout_ms: 6}}")
    (tmp_path / ".env").write_text("SCR_CONFIG=scr.yaml\nSCR_TIMEOUT_MS=7\n")
    told = load_capture().capture
    assert (told.batch_size, told.timeout_ms) == (5, 7)
    (tmp_path / ".env").write_bytes(b"SCR_TIMEOUT_MS=\xff\xfe\n")
    with pytest.raises(ConfigurationError, match=r"^\.env: it cannot be read"):
        load_capture()


def test_the_documents_own_file_loads_as_it_stands(load: Any) -> None:
    told = load(AS_DOCUMENTED)
    billing, analytics, audit = told.destinations
    assert [one.name for one in told.destinations] == ["billing", "analytics", "audit"]
    assert {one.kind for one in told.destinations} == {"http"}
    assert billing.endpoint == "https://billing.internal/api/v1/events"
    assert [one.transform for one in told.destinations] == ["billing_v1", "analytics_v2", "audit_v1"]
    assert [one.retry_attempts for one in told.destinations] == [3, 2, 5]
    assert [one.timeout_ms for one in told.destinations] == [500, 200, 1000]
    assert (analytics.sampling_rate, audit.retention_days) == (1.0, 2555)
    assert billing.ordering_key == "session_id"


def test_the_documents_high_throughput_loads_as_it_stands(load: Any) -> None:
    told = load(HIGH_THROUGHPUT + "  destinations: [{name: a, endpoint: 'https://a'}]\n")
    capture = told.capture
    assert (capture.batch_size, capture.flush_interval_ms, capture.buffer_max_size) == (1000, 100, 100_000)
    assert (told.replicas, told.destinations[0].ordering_key) == (10, "user_id")
    own = load(HIGH_THROUGHPUT + "  destinations: [{name: a, endpoint: 'https://a', ordering_key: none}]\n")
    assert own.destinations[0].ordering_key == "none"
    assert load(HIGH_THROUGHPUT).destinations == ()


def test_the_documents_low_latency_loads_as_it_stands(load: Any) -> None:
    capture = load(LOW_LATENCY).capture
    assert (capture.batch_size, capture.flush_interval_ms) == (1, 0)
    assert (capture.async_routing, capture.compression) == (True, False)


def test_what_else_a_destination_may_say(load: Any) -> None:
    (one,) = load(
        ONE
        + """\
      batch_size: 50
      concurrency: 2
      ordering_key: organization_id
      retention_days: null
      give_up_after_s: 60
      event_types: run.failed
      organization_id: acme
      start_at: latest
      scrubbing: {content: true, allow: [usage.total_tokens, outcome], patterns: pii}
      headers: {x-a: b}
      options: {max_bytes: 1000}
"""
    ).destinations
    assert (one.kind, one.batch_size, one.concurrency, one.ordering_key) == ("jsonl", 50, 2, "organization_id")
    assert (one.retention_days, one.give_up_after_s, one.event_types) == (None, 60.0, ("run.failed",))
    assert (one.organization_id, one.start_at) == ("acme", "latest")
    assert one.scrubbing == Scrubbing(content=True, allow=("usage.total_tokens", "outcome"), patterns=("pii",))
    assert (one.headers, one.options) == ({"x-a": "b"}, {"max_bytes": 1000})


def test_kind_has_a_second_name(load: Any) -> None:
    assert load(ONE.replace("kind:", "type:")).destinations[0].kind == "jsonl"


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        (
            "session_completion_runtime:\n  capture:\n    batch_sise: 1\n",
            "line 3: {}.capture.batch_sise",
            "no such key",
        ),
        ("session_completion_runtime:\n  capture: 5\n", "line 2: {}.capture", "a mapping of keys"),
        ("capture:\n  enabled: true\n", "line 1: capture", "no such key"),
        ("- a\n", "line 1", "a mapping of keys"),
        (
            "session_completion_runtime:\n  capture:\n\n    batch_size: many\n",
            "line 4: {}.capture.batch_size",
            "integer",
        ),
        ("session_completion_runtime:\n  capture:\n    batch_size: yes\n", "line 3: {}.capture.batch_size", "a number"),
        ("session_completion_runtime:\n  capture:\n    endpoint: x\n", "line 3: {}.capture.endpoint", "https://"),
        ("session_completion_runtime:\n  capture:\n    mode: disk\n", "line 3: {}.capture.mode", "'spool'"),
        (
            "session_completion_runtime:\n  capture:\n    scrub_before_store: [x]\n",
            "line 3: {}.capture.scrub_before_store",
            "no scrubbing pattern",
        ),
        (
            "session_completion_runtime:\n  optimization:\n    async_mode: perhaps\n",
            "line 3: {}.optimization.async_mode",
            "boolean",
        ),
        (
            "session_completion_runtime:\n  scaling:\n    partitioning_key: color\n",
            "line 3: {}.scaling.partitioning_key",
            "'user_id'",
        ),
        ("session_completion_runtime:\n  scaling:\n    replicas: 0\n", "line 3: {}.scaling.replicas", "greater"),
        (
            "session_completion_runtime:\n  monitoring:\n    metrics_port: 70000\n",
            "line 3: {}.monitoring.metrics_port",
            "65535",
        ),
        (ONE + "      sampling_rate: 1.5\n", "line 6: {}.destinations[0].sampling_rate", "less than"),
        (ONE + "      sampling_rate: true\n", "line 6: {}.destinations[0].sampling_rate", "a number"),
        (ONE + "      retries: 3\n", "line 6: {}.destinations[0].retries", "no such key"),
        (ONE + "      scrubbing:\n        pattern: x\n", "line 7: {}.destinations[0].scrubbing.pattern", "no such key"),
        (ONE + "    - endpoint: x\n", "line 6: {}.destinations[1].name", "missing"),
        (ONE.replace("jsonl\n", "fax\n"), "line 4: {}.destinations[0].kind", "'jsonl'"),
        (ONE + "    - name: audit\n      endpoint: b\n", "line 6: {}.destinations[1].name", "scr.yaml, line 3"),
        (ONE + "      kind: log\n", "line 6: {}.destinations[0].kind", "line 4 already"),
        ("session_completion_runtime: {}\nsession_completion_runtime: {}\n", "line 2: {}", "line 1 already"),
        ("session_completion_runtime: {a: 1, a: 2}\n", "line 1: {}.a", "line 1 already"),
        ("session_completion_runtime: &a\n  capture: *a\n", "line 2: {}.capture", "contains itself"),
        ("a:\n  - b\n c\n", "line 3", "not YAML"),
        (f"a: *{SECRET}\n", "line 1", "not YAML"),
        (f"a: 1\nb: !{SECRET} x\n", "line 2", "not YAML"),
        ("a: \x01\n", "line 1", "not YAML"),
        ("a: b\n---\nc: d\n", "line 2", "not YAML"),
        (ONE + f"      secrets: {{a: {SECRET}}}\n", "line 6: {}.destinations[0].secrets", "a list"),
        (ONE + f"      headers: {SECRET}\n", "line 6: {}.destinations[0].headers", "a mapping"),
        (
            ONE + "      headers:\n        x-key: ${SCR_NOT_SET}\n",
            "line 7: {}.destinations[0].headers.x-key",
            "SCR_NOT",
        ),
    ],
)
def test_an_error_names_file_line_and_key(load: Any, text: str, where: str, what: str) -> None:
    message = refused(load, text)
    assert message.startswith(f"scr.yaml, {where.format('session_completion_runtime')}: ")
    assert what in message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "session_completion_runtime:\n",
        "session_completion_runtime: {}\n",
        "session_completion_runtime:\n  destinations:\n  # - name: billing\n  capture:\n",
    ],
)
def test_what_is_empty_says_nothing(load: Any, text: str) -> None:
    told = load(text)
    assert (told.destinations, told.capture.batch_size) == ((), 100)


def test_a_file_that_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for content in (None, b"\xff\xfe\x00"):
        path = tmp_path / "missing.yaml"
        if content is not None:
            path.write_bytes(content)
        monkeypatch.setenv("SCR_CONFIG", str(path))
        with pytest.raises(ConfigurationError, match=r"^SCR_CONFIG: '.*missing\.yaml' cannot be read: "):
            load_capture()


def test_secrets_come_from_variables_and_show_nowhere(
    load: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AUDIT_SECRET", SECRET)
    (tmp_path / ".env").write_text("AUDIT_TOKEN=from-dotenv\n")
    text = (
        ONE + '      secrets: ["${AUDIT_SECRET}"]\n      headers: {authorization: "Bearer ${AUDIT_TOKEN} $${x} $5"}\n'
    )
    told = load(text)
    (one,) = told.destinations
    assert one.secrets == (SECRET,)
    assert one.headers == {"authorization": "Bearer from-dotenv ${x} $5"}
    assert SECRET not in repr(told)
    # What is put in is a value: it is not read as YAML, nor expanded again.
    monkeypatch.setenv("AUDIT_SECRET", "a: ${AUDIT_TOKEN}\n#")
    assert load(text).destinations[0].secrets == ("a: ${AUDIT_TOKEN}\n#",)


def test_an_error_of_a_destination_gets_its_line(load: Any) -> None:
    told = load(ONE + "      headers: {}\n")
    about_key = told.error("audit", "destinations.audit.endpoint: a file in an existing folder is needed.")
    assert about_key.public_message.startswith("scr.yaml, line 5: destinations.audit.endpoint: a file")
    whole = told.error("audit", "There is no transform 'x'.")
    assert whole.public_message == "scr.yaml, line 3: There is no transform 'x'."
    assert CaptureConfiguration().error("audit", "Wrong.").public_message == "Wrong."


def test_settings_do_not_change_by_accident() -> None:
    with pytest.raises(ValidationError):
        load_capture().capture.enabled = False  # pyright: ignore[reportAttributeAccessIssue]


def test_the_report_says_where_from_and_masks(load: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SCR_API_KEY", "scr_prod_abc123def456")
    monkeypatch.setenv("SCR_MODE", "")
    (tmp_path / ".env").write_text("SCR_TIMEOUT_MS=7\nSCR_DRAIN_MS=\n")
    told = load("session_completion_runtime:\n  capture:\n    batch_size: 5\n    timeout_ms: 5\n", drain_ms=9)
    entries = {one.variable: one for one in report_section(told.capture, told.sources)}
    sources = {name: one.source for name, one in entries.items()}
    assert entries["SCR_API_KEY"].value == "***f456"
    assert (sources["SCR_API_KEY"], sources["SCR_TIMEOUT_MS"]) == ("environment", ".env")
    assert (sources["SCR_BATCH_SIZE"], entries["SCR_BATCH_SIZE"].value) == ("scr.yaml, line 3", "5")
    assert (sources["SCR_MODE"], sources["SCR_DRAIN_MS"]) == ("default", "command line")


def test_the_browsers_variables_are_not_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in BROWSER_VARIABLES:
        monkeypatch.setenv(name, "https://page.example")
    assert load_capture() == CaptureConfiguration()
