"""Keys and projects of the organization: the platform's routes, and one of ours that makes project keys.

What an organization's key may do beyond the platform's own (`scopes`, `agents`, `models`, `user_id`) stands in fields
that the platform's objects lack.
"""

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from app.api.dependencies import Running
from app.api.errors import HttpError
from app.api.json_replies import JsonReply
from app.api.openai.access import AdminAccess, whole_organization
from app.api.openai.key_replies import (
    AdminKeyDeleted,
    AdminKeyList,
    AdminKeyReply,
    ProjectKeyDeleted,
    ProjectKeyList,
    ProjectKeyReply,
    ProjectList,
    ProjectReply,
    admin_key_list,
    admin_key_reply,
    project_key_list,
    project_key_reply,
    project_list,
    project_reply,
)
from app.api.openapi import replies
from app.domain.models.access import ApiKey, KeyPage, NewKey, Principal, Project, Scope

router = APIRouter(prefix="/v1/organization", tags=["keys"])

ADMIN_SCOPES: Final[tuple[Scope, ...]] = ("admin", "usage")
"""What a key of the organization may do unless it is asked for otherwise: like the platform's, it runs nothing."""

PROJECT_SCOPES: Final[tuple[Scope, ...]] = ("read", "write")

KeyId = Annotated[str, Path()]
ProjectId = Annotated[str, Path()]
Limit = Annotated[int, Query(ge=1, le=100, description="Most entries of the page.")]
After = Annotated[str | None, Query(description="The id that the page before ended with.")]
_ERRORS: Final = (400, 401, 403, 404, 503)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class KeyCreate(_Body):
    """What a key is asked to be."""

    name: str = Field(min_length=1, max_length=255)
    expires_in_seconds: int | None = Field(default=None, ge=1, description="Unset: it does not expire.")
    user_id: str | None = Field(
        default=None, min_length=1, max_length=255, description="Unset: it sees every user's conversations."
    )
    scopes: list[Scope] | None = Field(default=None, min_length=1)
    agents: list[str] | None = Field(default=None, min_length=1, description="Unset: all agents.")
    models: list[str] | None = Field(default=None, min_length=1, description="Unset: all models that are allowed.")


class ProjectBody(_Body):
    """A project's name."""

    name: str = Field(min_length=1, max_length=255)


@router.get(
    "/admin_api_keys",
    summary="List the organization's keys",
    responses=replies(AdminKeyList, 400, 401, 403, 503, description="A page."),
    response_class=JsonReply,
    response_model=None,
)
async def list_admin_keys(
    access: AdminAccess,
    container: Running,
    limit: Limit = 20,
    after: After = None,
    order: Annotated[Literal["asc", "desc"], Query(description="By the time of creation.")] = "asc",
) -> JsonReply:
    """List the keys that belong to no project; projects list their own."""
    page = KeyPage(limit=limit, after=after, unassigned=True, newest_first=order == "desc")
    keys, more = await container.keys.list(whole_organization(access), page)
    return JsonReply(admin_key_list(keys, has_more=more))


@router.post(
    "/admin_api_keys",
    summary="Create a key of the organization",
    responses=replies(AdminKeyReply, *_ERRORS, description="The key, with its value, which is told this once."),
    response_class=JsonReply,
    response_model=None,
)
async def create_admin_key(body: KeyCreate, access: AdminAccess, container: Running) -> JsonReply:
    """Make a key; without scopes it may administer and see usage, and nothing else."""
    issued = await container.keys.create(_new_key(body, whole_organization(access), None, ADMIN_SCOPES))
    return JsonReply(admin_key_reply(issued.key, issued.secret))


@router.get(
    "/admin_api_keys/{key_id}",
    summary="Show a key of the organization",
    responses=replies(AdminKeyReply, 401, 403, 404, 503, description="The key, without its value."),
    response_class=JsonReply,
    response_model=None,
)
async def show_admin_key(key_id: KeyId, access: AdminAccess, container: Running) -> JsonReply:
    """Show a key that belongs to no project."""
    return JsonReply(
        admin_key_reply(_found(await container.keys.get(whole_organization(access), key_id), key_id, None))
    )


@router.delete(
    "/admin_api_keys/{key_id}",
    summary="Revoke a key of the organization",
    responses=replies(AdminKeyDeleted, 401, 403, 404, 503, description="It is revoked, within five seconds."),
    response_class=JsonReply,
    response_model=None,
)
async def delete_admin_key(key_id: KeyId, access: AdminAccess, container: Running) -> JsonReply:
    """Revoke a key for good; what was used with it stays on the bill."""
    organization = whole_organization(access)
    _found(await container.keys.get(organization, key_id), key_id, None)
    await container.keys.revoke(organization, key_id)
    return JsonReply(AdminKeyDeleted(id=key_id))


@router.get(
    "/projects",
    summary="List projects",
    responses=replies(ProjectList, 400, 401, 403, 503, description="A page, in the order of creation."),
    response_class=JsonReply,
    response_model=None,
)
async def list_projects(
    access: AdminAccess,
    container: Running,
    limit: Limit = 20,
    after: After = None,
    include_archived: Annotated[bool, Query(description="Also projects that were archived.")] = False,
) -> JsonReply:
    """List the organization's projects."""
    organization = whole_organization(access)
    projects, more = await container.keys.projects(organization, limit=limit, after=after, archived=include_archived)
    return JsonReply(project_list(projects, has_more=more))


@router.post(
    "/projects",
    summary="Create a project",
    responses=replies(ProjectReply, 400, 401, 403, 503, description="The project."),
    response_class=JsonReply,
    response_model=None,
)
async def create_project(body: ProjectBody, access: AdminAccess, container: Running) -> JsonReply:
    """Open a project."""
    return JsonReply(project_reply(await container.keys.create_project(whole_organization(access), body.name)))


@router.get(
    "/projects/{project_id}",
    summary="Show a project",
    responses=replies(ProjectReply, 401, 403, 404, 503, description="The project."),
    response_class=JsonReply,
    response_model=None,
)
async def show_project(project_id: ProjectId, access: AdminAccess, container: Running) -> JsonReply:
    """Show a project, an archived one too."""
    return JsonReply(
        project_reply(_existing(await container.keys.project(_of(access, project_id), project_id), project_id))
    )


@router.post(
    "/projects/{project_id}",
    summary="Rename a project",
    responses=replies(ProjectReply, *_ERRORS, description="The project as it is now."),
    response_class=JsonReply,
    response_model=None,
)
async def update_project(
    body: ProjectBody, project_id: ProjectId, access: AdminAccess, container: Running
) -> JsonReply:
    """Give an open project another name."""
    renamed = await container.keys.rename_project(_of(access, project_id), project_id, body.name)
    return JsonReply(project_reply(_existing(renamed, project_id)))


@router.post(
    "/projects/{project_id}/archive",
    summary="Archive a project",
    responses=replies(ProjectReply, 401, 403, 404, 503, description="The project as it is now."),
    response_class=JsonReply,
    response_model=None,
)
async def archive_project(project_id: ProjectId, access: AdminAccess, container: Running) -> JsonReply:
    """Close a project for good and revoke its keys."""
    archived = await container.keys.archive_project(_of(access, project_id), project_id)
    return JsonReply(project_reply(_existing(archived, project_id)))


@router.get(
    "/projects/{project_id}/api_keys",
    summary="List a project's keys",
    responses=replies(ProjectKeyList, *_ERRORS, description="A page, in the order of creation."),
    response_class=JsonReply,
    response_model=None,
)
async def list_project_keys(
    project_id: ProjectId,
    access: AdminAccess,
    container: Running,
    limit: Limit = 20,
    after: After = None,
    owner_project_access: Annotated[
        Literal["active", "inactive", "any"],
        Query(description="By whether the key's owner may use the project: here every owner may."),
    ] = "any",
) -> JsonReply:
    """List the keys of a project."""
    project = _existing(await container.keys.project(_of(access, project_id), project_id), project_id)
    page = KeyPage(project_id=project_id, limit=limit, after=after)
    keys, more = await container.keys.list(project.organization_id, page)
    if owner_project_access == "inactive":
        keys, more = [], False
    return JsonReply(project_key_list(keys, has_more=more))


@router.post(
    "/projects/{project_id}/api_keys",
    summary="Create a project's key",
    responses=replies(ProjectKeyReply, *_ERRORS, description="The key, with its value, which is told this once."),
    response_class=JsonReply,
    response_model=None,
)
async def create_project_key(
    body: KeyCreate, project_id: ProjectId, access: AdminAccess, container: Running
) -> JsonReply:
    """Make a key for a project; without scopes it may read and write. The platform has this in its web pages only."""
    project = _existing(await container.keys.project(_of(access, project_id), project_id), project_id)
    issued = await container.keys.create(_new_key(body, project.organization_id, project_id, PROJECT_SCOPES))
    return JsonReply(project_key_reply(issued.key, issued.secret))


@router.get(
    "/projects/{project_id}/api_keys/{key_id}",
    summary="Show a project's key",
    responses=replies(ProjectKeyReply, 401, 403, 404, 503, description="The key, without its value."),
    response_class=JsonReply,
    response_model=None,
)
async def show_project_key(project_id: ProjectId, key_id: KeyId, access: AdminAccess, container: Running) -> JsonReply:
    """Show a key of a project."""
    key = await container.keys.get(_of(access, project_id), key_id)
    return JsonReply(project_key_reply(_found(key, key_id, project_id)))


@router.delete(
    "/projects/{project_id}/api_keys/{key_id}",
    summary="Revoke a project's key",
    responses=replies(ProjectKeyDeleted, 401, 403, 404, 503, description="It is revoked, within five seconds."),
    response_class=JsonReply,
    response_model=None,
)
async def delete_project_key(
    project_id: ProjectId, key_id: KeyId, access: AdminAccess, container: Running
) -> JsonReply:
    """Revoke a key for good; what was used with it stays on the bill."""
    organization = _of(access, project_id)
    _found(await container.keys.get(organization, key_id), key_id, project_id)
    await container.keys.revoke(organization, key_id)
    return JsonReply(ProjectKeyDeleted(id=key_id))


def _of(access: Principal, project_id: str) -> str:
    """Return the organization, if the one who asks may administer the project.

    Raises:
        HttpError: that one is confined to another project, which looks as if this one did not exist (404).
    """
    if access.caller.project_id not in {None, project_id}:
        raise _no_project(project_id)
    return access.caller.organization_id


def _existing(project: Project | None, project_id: str) -> Project:
    if project is None:
        raise _no_project(project_id)
    return project


def _no_project(project_id: str) -> HttpError:
    return HttpError(404, "not_found", f"There is no project '{project_id[:80]}'.", param="project_id")


def _found(key: ApiKey | None, key_id: str, project_id: str | None) -> ApiKey:
    """Return a key that belongs to the project, or to none.

    Raises:
        HttpError: it does not exist there (404).
    """
    if key is None or key.project_id != project_id:
        raise HttpError(404, "not_found", f"There is no key '{key_id[:80]}'.", param="key_id")
    return key


def _new_key(body: KeyCreate, organization_id: str, project_id: str | None, scopes: tuple[Scope, ...]) -> NewKey:
    return NewKey(
        organization_id=organization_id,
        name=body.name,
        project_id=project_id,
        user_id=body.user_id,
        scopes=frozenset(body.scopes or scopes),
        agents=None if body.agents is None else frozenset(body.agents),
        models=None if body.models is None else frozenset(body.models),
        lifetime_s=body.expires_in_seconds,
    )
