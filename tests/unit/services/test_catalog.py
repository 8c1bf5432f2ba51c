import pytest

from app.domain.errors import UnknownAgent
from app.services.catalog import CatalogService
from tests.unit.services.fakes import NOON, Activity, Provider


def catalog() -> CatalogService:
    return CatalogService(Provider(), Activity({"coder": NOON, "gone": NOON}))


async def test_agents_come_as_the_provider_orders_them_with_their_last_run() -> None:
    assert [(one.agent.key, one.last_seen) for one in await catalog().agents()] == [("helper", None), ("coder", NOON)]


async def test_one_agent_or_the_default_one() -> None:
    assert (await catalog().agent("coder")).last_seen == NOON
    assert (await catalog().agent(None)).agent.key == "helper"
    with pytest.raises(UnknownAgent):
        await catalog().agent("gone")


def test_tools_name_their_agents() -> None:
    assert [(tool.name, tool.agents) for tool in catalog().tools()] == [("clock", ("helper", "coder"))]
