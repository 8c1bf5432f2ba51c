"""`durable-agents doctor`: every setting and its source, what works, and what to mend."""

import asyncio
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from app import __version__
from app.cli.db import what_to_do
from app.cli.failures import FAILED
from app.cli.options import Place, command
from app.cli.output import Column, notice, print_json, print_line, print_table
from app.cli.system import set_up, settings_of
from app.domain.errors import AppError

if TYPE_CHECKING:
    from app.bootstrap import EndpointState
    from app.capture_settings import CaptureConfiguration
    from app.settings import Settings

ENDPOINT_TIMEOUT_S: Final = 5.0
PACKAGES: Final = ("openai-agents", "openai", "sqlalchemy", "pydantic", "fastapi", "uvicorn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """How thorough to be, and how to tell."""

    offline: Annotated[bool, typer.Option("--offline", help="Do not call the model's endpoint.")] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False


@dataclass(frozen=True, slots=True)
class Findings:
    """What the examination showed."""

    settings: Sequence[Mapping[str, str]]
    destinations: Sequence[Mapping[str, str]]
    """Where completion events go."""
    database: str
    endpoint: Mapping[str, Any]
    versions: Mapping[str, str]
    problems: Sequence[str]
    """Each with what to do; empty when all is well."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "doctor")(doctor)


def doctor(examination: Examination, place: Place) -> int:
    """Show every setting with its source, and whether database, model endpoint and destinations can be used.

    Secrets are masked. The exit code is 1 when something is wrong.
    """
    findings = asyncio.run(_examine(examination, place))
    if examination.as_json:
        print_json({"ok": not findings.problems, **asdict(findings)})
    else:
        _print(findings)
    return FAILED if findings.problems else 0


async def _examine(examination: Examination, place: Place) -> Findings:
    from app.capture_settings import load_capture  # noqa: PLC0415 - see app.cli.system
    from app.settings import report, report_section  # noqa: PLC0415

    try:
        settings, capture = settings_of(place), load_capture()
    except AppError as error:
        return Findings([], [], "not checked", {"kind": "not checked"}, _versions(), [error.public_message])
    set_up(place)
    problems: list[str] = []
    database = await _database(settings, problems)
    endpoint = await _endpoint(settings, problems, offline=examination.offline)
    destinations = await _destinations(settings, capture, problems)
    own = [report_section(section, capture.sources) for section in (capture.capture, capture.monitoring)]
    entries = [asdict(entry) for entry in chain(report(settings), *own)]
    return Findings(entries, destinations, database, endpoint, _versions(), problems)


async def _destinations(
    settings: "Settings", capture: "CaptureConfiguration", problems: list[str]
) -> Sequence[Mapping[str, str]]:
    from app.completions import CompletionOptions, check_destinations  # noqa: PLC0415 - see app.cli.system
    from app.settings import masked  # noqa: PLC0415

    try:
        await check_destinations(CompletionOptions(capture))
    except AppError as error:
        problems.append(error.public_message)
    if capture.replicas > 1 and settings.database.url.get_secret_value().startswith("sqlite"):
        problems.append(f"scaling.replicas is {capture.replicas}, and SQLite is for one machine. Use PostgreSQL.")
    return [{"name": one.name, "kind": one.kind, "endpoint": masked(one.endpoint)} for one in capture.destinations]


async def _database(settings: "Settings", problems: list[str]) -> str:
    from app.bootstrap import check_database  # noqa: PLC0415 - see app.cli.system

    try:
        state = await check_database(settings)
    except AppError as error:
        problems.append(error.public_message)
        return "unavailable"
    if not state.ready:
        # An SQLite file is brought up to date by whoever opens it next.
        if state.database != "unavailable" and settings.database.url.get_secret_value().startswith("sqlite"):
            return f"{state.database}; the next command or server upgrades it"
        problems.append(what_to_do(state.database))
    return state.database


async def _endpoint(settings: "Settings", problems: list[str], *, offline: bool) -> Mapping[str, Any]:
    from app.bootstrap import check_endpoint  # noqa: PLC0415 - see app.cli.system

    try:
        state: EndpointState = await check_endpoint(settings, timeout_s=None if offline else ENDPOINT_TIMEOUT_S)
    except AppError as error:
        problems.append(error.public_message)
        return {"kind": "not checked"}
    if state.problem is not None:
        problems.append(f"{state.problem} Check OPENAI_API_KEY and OPENAI_BASE_URL, or use --offline.")
    return asdict(state)


def _versions() -> Mapping[str, str]:
    found = {"durable-agents": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _print(findings: Findings) -> None:
    print_line("  ".join(f"{name} {version}" for name, version in findings.versions.items()))
    print_line()
    columns = (Column("SETTING"), Column("VALUE"), Column("DEFAULT"), Column("SOURCE"))
    print_table(
        columns, [(entry["variable"], entry["value"], entry["default"], entry["source"]) for entry in findings.settings]
    )
    print_line()
    print_line(f"Database: {findings.database}")
    print_line(f"Endpoint: {endpoint_line(findings.endpoint)}")
    for one in findings.destinations:
        print_line(f"Destination: {one['name']} ({one['kind']} {one['endpoint']})")
    for problem in findings.problems:
        notice(f"Problem: {problem}", style="31")
    if not findings.problems:
        print_line("All is well.")


def endpoint_line(endpoint: Mapping[str, Any]) -> str:
    """Return the state of the endpoint for people."""
    if endpoint["kind"] == "demo":
        return "none; the demo model stands in. Set OPENAI_API_KEY or OPENAI_BASE_URL to use a real one."
    if endpoint["kind"] != "endpoint":
        return str(endpoint["kind"])
    listed = "" if endpoint["models"] is None else f", {endpoint['models']} models"
    state = {None: "not asked", True: f"reachable{listed}", False: "not usable"}
    return f"{endpoint['base_url']} ({state[endpoint['reachable']]})"
