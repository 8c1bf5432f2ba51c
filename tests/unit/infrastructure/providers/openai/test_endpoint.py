"""The endpoint and its conversations: which wire API, which client, what is closed."""

from typing import Any

import pytest
from agents import MultiProvider, OpenAIChatCompletionsModel, OpenAIResponsesModel
from agents.models.multi_provider import MultiProviderMap
from openai import AsyncOpenAI

from app.domain.errors import ProviderError, ProviderTimeout
from app.infrastructure.providers.openai import nested_runs
from app.infrastructure.providers.openai.conversation_client import ConversationClient
from app.infrastructure.providers.openai.endpoint import Endpoint, EndpointOptions, build_models
from tests.fakes.openai import FakeOpenAI
from tests.network import NetworkReached


async def probed(fake: FakeOpenAI, times: int = 1) -> list[str]:
    async with AsyncOpenAI(base_url=fake.base_url, api_key=fake.api_key, max_retries=2) as client:
        endpoint = Endpoint(client, "auto", owns_client=False)
        return [await endpoint.api() for _ in range(times)]


@pytest.mark.parametrize(
    ("status", "code", "api"),
    [
        (400, None, "responses"),
        (404, None, "chat_completions"),
        (405, None, "chat_completions"),
        (501, None, "chat_completions"),
        (422, None, "responses"),
        (401, None, "auto"),
        (403, None, "auto"),
        (408, None, "auto"),
        (429, None, "auto"),
        (500, None, "auto"),
        (503, None, "auto"),
    ],
)
async def test_what_an_answer_to_the_probe_means(status: int, code: str | None, api: str) -> None:
    with FakeOpenAI() as fake:
        fake.fail_next(status, code=code)
        first, second = await probed(fake, 2)
        assert first == api
        assert second == ("responses" if api == "auto" else api)
        assert len(fake.requests) == (2 if api == "auto" else 1)


async def test_a_probe_is_not_retried_and_not_understood_is_no_answer() -> None:
    with FakeOpenAI() as fake:
        fake.garbage_next()
        fake.cut_next()
        assert (await probed(fake, 3))[-1] == "responses"


async def test_a_fixed_wire_api_is_not_asked_for() -> None:
    async with AsyncOpenAI(base_url="http://127.0.0.1:9/v1", api_key="x") as client:
        assert isinstance(Endpoint(client, "responses", owns_client=False).get_model("m"), OpenAIResponsesModel)
        chat = Endpoint(client, "chat_completions", owns_client=False).get_model("m")
        assert isinstance(chat, OpenAIChatCompletionsModel)


async def test_openai_itself_is_never_probed() -> None:
    async with AsyncOpenAI(api_key="x") as client:
        models = build_models(EndpointOptions(), client)
        inner: Any = models.provider.get_model("gpt-5")
        assert isinstance(inner.inner, OpenAIResponsesModel)


async def test_optional_hooks_appear_when_the_model_is_known() -> None:
    with FakeOpenAI() as fake:
        async with AsyncOpenAI(base_url=fake.base_url, api_key=fake.api_key) as client:
            model: Any = Endpoint(client, "auto", owns_client=False).get_model("gpt-4.1")
            assert not hasattr(model, "_supports_default_prompt_cache_key")
            await model._model()
            assert hasattr(model, "_supports_default_prompt_cache_key")


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_an_endpoint_without_conversations(status: int) -> None:
    with FakeOpenAI() as fake:
        async with AsyncOpenAI(base_url=fake.base_url, api_key=fake.api_key, max_retries=0) as client:
            conversations = ConversationClient(client, "server")
            fake.fail_next(status)
            assert await conversations.create() is None
            assert await conversations.create() is None
            assert len(fake.requests) == 1


async def test_conversations_are_created_in_server_mode_only() -> None:
    with FakeOpenAI() as fake:
        async with AsyncOpenAI(base_url=fake.base_url, api_key=fake.api_key, max_retries=0) as client:
            assert await ConversationClient(client, "local").create() is None
            assert await ConversationClient(None, "server").create() is None
            created = await ConversationClient(client, "server").create()
            assert created is not None
            assert created.startswith("conv_")
            assert fake.conversation_ids == [created]


async def test_a_failure_to_create_one_is_typed() -> None:
    with FakeOpenAI() as fake:
        async with AsyncOpenAI(base_url=fake.base_url, api_key=fake.api_key, max_retries=0, timeout=0.2) as client:
            conversations = ConversationClient(client, "server")
            fake.fail_next(500)
            with pytest.raises(ProviderError):
                await conversations.create()
            fake.hang_next()
            with pytest.raises(ProviderTimeout):
                await conversations.create()
            assert await conversations.create() is not None


def test_the_sdk_s_default_provider_is_known_from_a_chosen_one() -> None:
    assert nested_runs._is_default(MultiProvider())
    assert not nested_runs._is_default(MultiProvider(openai_base_url="http://127.0.0.1:9/v1"))
    assert not nested_runs._is_default(MultiProvider(openai_api_key="sk"))
    assert not nested_runs._is_default(MultiProvider(provider_map=MultiProviderMap()))


async def test_no_test_reaches_the_network(no_network: list[str]) -> None:
    """The guard of these tests itself: whoever tries is stopped, and the test fails even when the error is hidden."""
    async with AsyncOpenAI(api_key="x", max_retries=0) as client:
        endpoint = Endpoint(client, "auto", owns_client=False)
        with pytest.raises(NetworkReached):
            await endpoint.api()
    assert no_network == ["api.openai.com"]
    no_network.clear()
