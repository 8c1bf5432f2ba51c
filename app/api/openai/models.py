"""Models: the agents that the caller may run, and after them the upstream models that it may call."""

from typing import Annotated, Final

from fastapi import APIRouter, Path
from msgspec import Struct

from app.api.dependencies import Running
from app.api.json_replies import JsonReply
from app.api.openai.access import Access
from app.api.openai.upstream import model_not_found
from app.api.openapi import replies
from app.domain.errors import UnknownAgent

router = APIRouter(prefix="/v1/models", tags=["models"])

AGENT_OWNER: Final = "durable-agents"
UPSTREAM_OWNER: Final = "upstream"


class Model(Struct, frozen=True, kw_only=True):
    """Something that answers."""

    id: str
    """An agent's key, or the name of an upstream model."""
    object: str = "model"
    created: int = 0
    """Seconds since 1970; 0, since nobody knows."""
    owned_by: str


class ModelList(Struct, frozen=True, kw_only=True):
    """All models, agents first."""

    object: str = "list"
    data: list[Model]


@router.get(
    "",
    summary="List models",
    responses=replies(ModelList, 401, 403, description="All that the caller may use, on one page."),
    response_class=JsonReply,
    response_model=None,
)
async def list_models(access: Access, container: Running) -> JsonReply:
    """List the agents and the upstream models that the caller may use. An agent hides a model of its name."""
    agents = [agent.key for agent in container.provider.agents() if access.may_use_agent(agent.key)]
    hidden = {agent.key for agent in container.provider.agents()}
    upstream = [name for name in await container.gateway.models(access) if name not in hidden]
    models = [Model(id=key, owned_by=AGENT_OWNER) for key in agents]
    return JsonReply(ModelList(data=[*models, *(Model(id=name, owned_by=UPSTREAM_OWNER) for name in upstream)]))


@router.get(
    "/{model:path}",
    summary="Retrieve a model",
    responses=replies(Model, 401, 403, 404, description="It may be used."),
    response_class=JsonReply,
    response_model=None,
)
async def retrieve_model(
    model: Annotated[str, Path(description="An agent's key, or the name of an upstream model.")],
    access: Access,
    container: Running,
) -> JsonReply:
    """Tell whether the caller may use a model; whether an upstream one exists is the upstream's to say."""
    try:
        key = container.provider.agent(model).key
    except UnknownAgent:
        if not container.gateway.allows(model, access):
            raise model_not_found(model) from None
        return JsonReply(Model(id=model, owned_by=UPSTREAM_OWNER))
    if not access.may_use_agent(key):
        raise model_not_found(model)
    return JsonReply(Model(id=key, owned_by=AGENT_OWNER))
