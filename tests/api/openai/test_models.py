"""Models as the official client sees them: agents first, then the upstream models that are allowed."""

from collections.abc import Callable
from typing import Any

import openai
import pytest

from app.domain.models.access import NewKey
from tests.api.openai.chat_clients import client_of
from tests.api.serving import Served, scripted
from tests.fakes.openai import FakeOpenAI

Serve = Callable[..., Any]


@pytest.fixture
async def both(serve: Serve, fake: FakeOpenAI) -> Served:
    """Agents, one of them with the name of an upstream model."""
    endpoint = {"api_key": fake.api_key, "base_url": fake.base_url}
    agents = [scripted(), scripted(name="other")]
    return await serve(*agents, openai=endpoint, gateway={"models": "gpt-4.1-mini, org/small, helper"})


async def test_agents_come_first(both: Served) -> None:
    models = [model async for model in client_of(both).models.list()]
    assert [(model.id, model.owned_by) for model in models] == [
        ("helper", "durable-agents"),
        ("other", "durable-agents"),
        ("gpt-4.1-mini", "upstream"),
        ("org/small", "upstream"),
    ]
    assert {model.object for model in models} == {"model"}


async def test_one_model(both: Served) -> None:
    client = client_of(both)
    for name, owner in [("helper", "durable-agents"), ("gpt-4.1-mini", "upstream"), ("org/small", "upstream")]:
        model = await client.models.retrieve(name)
        assert (model.id, model.owned_by) == (name, owner)
    for name in ("nobody", "gpt-5", "org/other"):
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.models.retrieve(name)
        assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")


async def test_models_cannot_be_deleted(both: Served) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        await client_of(both).models.delete("helper")
    assert refused.value.status_code == 405
    assert refused.value.code == "method_not_allowed"


async def test_a_key_sees_what_it_may_use(both: Served) -> None:
    new = NewKey(
        organization_id="acme",
        name="k",
        scopes=frozenset({"read"}),
        agents=frozenset({"other"}),
        models=frozenset({"org/small"}),
    )
    client = client_of(both, (await both.container.keys.create(new)).secret)
    assert [model.id async for model in client.models.list()] == ["other", "org/small"]
    for name in ("helper", "gpt-4.1-mini"):
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve(name)


async def test_without_an_endpoint_there_are_agents_only(serve: Serve) -> None:
    served = await serve(scripted(), gateway={"models": "gpt-*"})
    assert [model.id async for model in client_of(served).models.list()] == ["helper"]
