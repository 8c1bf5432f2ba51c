"""`durable-agents keys`: who may use the server. `durable-agents projects`: what keys and usage are sorted by."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from app.cli.failures import CommandFailed
from app.cli.options import Place, command
from app.cli.output import UNKNOWN, Column, moment, notice, print_json, print_line, print_table
from app.cli.system import system
from app.domain.models.access import ApiKey, IssuedKey, KeyPage, NewKey, Project

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Organization = Annotated[str, typer.Option("--organization", metavar="ID", help="Organization it belongs to.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=100, help="How many at most.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyAsked:
    """What a key is asked to be."""

    organization: Organization = "default"
    project: Annotated[
        str | None, typer.Option("--project", metavar="ID", help="Project it is confined to; none: all of them.")
    ] = None
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="ID", help="User it acts for; none: it sees every user's conversations."),
    ] = None
    name: Annotated[str, typer.Option("--name", help="What it is called in lists.")] = "key"
    scopes: Annotated[
        list[str],
        typer.Option(
            "--scope",
            metavar="read|write|usage|admin|events:write|events:read",
            help="What it may do; name it more than once. None: read and write.",
        ),
    ] = field(default_factory=list[str])
    agents: Annotated[
        list[str],
        typer.Option("--agent", metavar="KEY", help="Agent it may run; name it more than once. None: all."),
    ] = field(default_factory=list[str])
    models: Annotated[
        list[str],
        typer.Option("--model", metavar="NAME", help="Upstream model it may call; more than once. None: all allowed."),
    ] = field(default_factory=list[str])
    expires_in_days: Annotated[
        float | None, typer.Option("--expires-in-days", help="Days until it expires; none: never.")
    ] = None
    as_json: JsonFlag = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysShown:
    """Which keys are listed."""

    organization: Annotated[
        str | None, typer.Option("--organization", metavar="ID", help="Only this organization's; none: all of them.")
    ] = None
    project: Annotated[str | None, typer.Option("--project", metavar="ID", help="Only this project's.")] = None
    revoked: Annotated[bool, typer.Option("--revoked", help="Also those that were revoked.")] = False
    limit: Limit = 20
    after: Annotated[str | None, typer.Option("--after", metavar="ID", help="Those made after this one.")] = None
    as_json: JsonFlag = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysRevoked:
    """Which keys are revoked."""

    keys: Annotated[list[str], typer.Argument(metavar="ID...", help="The keys, such as key_0190….")]
    organization: Annotated[
        str | None, typer.Option("--organization", metavar="ID", help="Organization they must belong to; none: any.")
    ] = None
    as_json: JsonFlag = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectAsked:
    """A new project."""

    name: Annotated[str, typer.Argument(help="What it is called in lists and reports.")]
    organization: Organization = "default"
    as_json: JsonFlag = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectsShown:
    """Which projects are listed."""

    organization: Organization = "default"
    archived: Annotated[bool, typer.Option("--archived", help="Also those that were archived.")] = False
    limit: Limit = 20
    after: Annotated[str | None, typer.Option("--after", metavar="ID", help="Those made after this one.")] = None
    as_json: JsonFlag = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectArchived:
    """Which project is closed."""

    project: Annotated[str, typer.Argument(metavar="ID", help="The project, such as proj_0190….")]
    organization: Organization = "default"
    as_json: JsonFlag = False


def register(app: typer.Typer) -> None:
    """Add the commands."""
    keys = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)
    command(keys, "create")(create)
    command(keys, "ls")(ls)
    command(keys, "revoke")(revoke)
    app.add_typer(keys, name="keys")
    projects = typer.Typer(help="Create, list and archive projects.", no_args_is_help=True)
    command(projects, "create")(create_project)
    command(projects, "ls")(list_projects)
    command(projects, "archive")(archive_project)
    app.add_typer(projects, name="projects")


def create(asked: KeyAsked, place: Place) -> None:
    """Create a key and print it: it is shown this once, and only its hash is kept.

    As soon as there is one, every server on the database requires keys, also on this machine.
    """
    new = NewKey(
        organization_id=asked.organization,
        name=asked.name,
        project_id=asked.project,
        user_id=asked.user,
        scopes=frozenset(asked.scopes or ("read", "write")),
        agents=frozenset(asked.agents) or None,
        models=frozenset(asked.models) or None,
        lifetime_s=None if asked.expires_in_days is None else asked.expires_in_days * 86_400,
    )

    async def write() -> IssuedKey:
        async with system(place) as container:
            return await container.keys.create(new)

    issued = asyncio.run(write())
    if asked.as_json:
        print_json({**_key_object(issued.key), "value": issued.secret})
        return
    print_line(issued.secret)
    expiry = "" if issued.key.expires_at is None else f", expires {moment(issued.key.expires_at)} UTC"
    scopes = ", ".join(sorted(issued.key.scopes))
    notice(f"{issued.key.id} of organization {issued.key.organization_id} may {scopes}{expiry}.")
    if sys.stdout.isatty():
        notice("Keep the key above: it is not shown again.")


def ls(shown: KeysShown, place: Place) -> None:
    """List keys in the order of their creation, without their secrets."""
    page = KeyPage(project_id=shown.project, revoked=shown.revoked, limit=shown.limit, after=shown.after)

    async def read() -> tuple[Sequence[ApiKey], bool]:
        async with system(place) as container:
            return await container.keys.list(shown.organization, page)

    found, more = asyncio.run(read())
    if shown.as_json:
        print_json({"data": [_key_object(key) for key in found], "has_more": more})
        return
    titles = ("KEY", "ORGANIZATION", "PROJECT", "USER", "NAME", "VALUE", "SCOPES", "STATE", "LAST USED")
    print_table([Column(title) for title in titles], [_key_row(key) for key in found])
    if more:
        notice(f"There are more: --after {found[-1].id}")


def revoke(revoked: KeysRevoked, place: Place) -> None:
    """Revoke keys for good; running servers refuse them within five seconds."""

    async def write() -> list[ApiKey | None]:
        async with system(place) as container:
            return [await container.keys.revoke(revoked.organization, key_id) for key_id in revoked.keys]

    results = asyncio.run(write())
    done = [key for key in results if key is not None]
    if revoked.as_json:
        print_json({"data": [_key_object(key) for key in done]})
    else:
        for key in done:
            print_line(f"revoked {key.id}")
    missing = [key_id for key_id, key in zip(revoked.keys, results, strict=True) if key is None]
    if missing:
        raise CommandFailed(f"There is no key {', '.join(missing)}.")


def create_project(asked: ProjectAsked, place: Place) -> None:
    """Create a project and print its id."""

    async def write() -> Project:
        async with system(place) as container:
            return await container.keys.create_project(asked.organization, asked.name)

    project = asyncio.run(write())
    if asked.as_json:
        print_json(_project_object(project))
    else:
        print_line(project.id)


def list_projects(shown: ProjectsShown, place: Place) -> None:
    """List projects in the order of their creation."""

    async def read() -> tuple[Sequence[Project], bool]:
        async with system(place) as container:
            return await container.keys.projects(
                shown.organization, limit=shown.limit, after=shown.after, archived=shown.archived
            )

    found, more = asyncio.run(read())
    if shown.as_json:
        print_json({"data": [_project_object(project) for project in found], "has_more": more})
        return
    rows = [(one.id, one.name, moment(one.created_at), moment(one.archived_at)) for one in found]
    print_table([Column(title) for title in ("PROJECT", "NAME", "CREATED", "ARCHIVED")], rows)
    if more:
        notice(f"There are more: --after {found[-1].id}")


def archive_project(asked: ProjectArchived, place: Place) -> None:
    """Close a project for good and revoke its keys."""

    async def write() -> Project | None:
        async with system(place) as container:
            return await container.keys.archive_project(asked.organization, asked.project)

    project = asyncio.run(write())
    if project is None:
        raise CommandFailed(f"There is no project {asked.project} in the organization {asked.organization}.")
    if asked.as_json:
        print_json(_project_object(project))
    else:
        print_line(f"archived {project.id}")


def _key_row(key: ApiKey) -> Sequence[str]:
    return (
        key.id,
        key.organization_id,
        key.project_id or UNKNOWN,
        key.user_id or UNKNOWN,
        key.name,
        key.redacted,
        ",".join(sorted(key.scopes)),
        _state(key),
        moment(key.last_used_at),
    )


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if not key.is_active(datetime.now(UTC)):
        return "expired"
    return "active" if key.expires_at is None else f"until {moment(key.expires_at)}"


def _key_object(key: ApiKey) -> Mapping[str, Any]:
    return {
        "id": key.id,
        "organization": key.organization_id,
        "project": key.project_id,
        "user": key.user_id,
        "name": key.name,
        "redacted_value": key.redacted,
        "scopes": sorted(key.scopes),
        "agents": None if key.agents is None else sorted(key.agents),
        "models": None if key.models is None else sorted(key.models),
        "created_at": key.created_at.isoformat(),
        "expires_at": _iso(key.expires_at),
        "revoked_at": _iso(key.revoked_at),
        "last_used_at": _iso(key.last_used_at),
    }


def _project_object(project: Project) -> Mapping[str, Any]:
    return {
        "id": project.id,
        "organization": project.organization_id,
        "name": project.name,
        "created_at": project.created_at.isoformat(),
        "archived_at": _iso(project.archived_at),
    }


def _iso(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()
