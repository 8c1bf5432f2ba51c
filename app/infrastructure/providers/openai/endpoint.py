"""The model endpoint: whose client, which wire API, which models; or the demo model when there is nothing to call."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import openai
import structlog
from agents import Model, ModelProvider, OpenAIChatCompletionsModel, OpenAIResponsesModel
from agents.items import TResponseStreamEvent
from openai import AsyncOpenAI

from app.infrastructure.providers.openai.demo_model import DemoModel
from app.infrastructure.providers.openai.journal_model import JournalModelProvider, closing

log = structlog.get_logger(__name__)

WireApi = Literal["auto", "responses", "chat_completions"]
DEMO_MODEL = "demo"


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """Where models are called, as the settings say."""

    api_key: str | None = None
    base_url: str | None = None
    organization: str | None = None
    project: str | None = None
    api: WireApi = "auto"
    default_model: str = "gpt-5.4-mini"
    request_timeout_s: float = 90.0
    connect_timeout_s: float = 5.0
    max_retries: int = 2
    demo_delay_ms: int = 15


class Endpoint(ModelProvider):
    """Models of one endpoint, and the one client that reaches it."""

    def __init__(self, client: AsyncOpenAI, api: WireApi, *, owns_client: bool) -> None:
        """`auto` asks the endpoint once, at the first call, whether it speaks Responses."""
        self.client = client
        self._owns_client = owns_client
        self._api: WireApi = api
        self._probing = asyncio.Lock()

    def get_model(self, model_name: str | None) -> Model:
        """Return a model that calls this endpoint."""
        name = model_name or ""
        if self._api == "auto":
            return _ProbingModel(self, name)
        return self.model(name, self._api)

    def model(self, name: str, api: WireApi) -> Model:
        """Return the SDK's model for one wire API."""
        if api == "chat_completions":
            return OpenAIChatCompletionsModel(name, self.client, buffer_streamed_tool_calls=True)
        return OpenAIResponsesModel(name, self.client)

    async def api(self) -> WireApi:
        """Return the wire API to use, asking the endpoint the first time; `auto` while it has not told."""
        if self._api == "auto":
            async with self._probing:
                if self._api == "auto":
                    self._api = await self._probe()
        return self._api

    async def _probe(self) -> WireApi:
        """Ask for a response with an empty body: a host that speaks Responses refuses the body, others the route."""
        try:
            await self.client.with_options(max_retries=0).post("/responses", body={}, cast_to=object)
        except openai.NotFoundError as error:
            # An unknown route has no `param`; a host that knows the route may still say 404 for a missing model.
            api: WireApi = "responses" if error.param == "model" else "chat_completions"
        except openai.APIStatusError as error:
            # A refused key or an overloaded host says nothing about the route: ask again next time.
            status = error.status_code
            if status in {401, 403, 408, 409, 429, 500} or status > 501:
                return "auto"
            api = "chat_completions" if status in {405, 501} else "responses"
        except (openai.OpenAIError, ValueError):  # not reached, or not understood
            return "auto"
        else:
            api = "responses"
        log.info("endpoint_probed", api=api)
        return api

    async def aclose(self) -> None:
        """Close the client's connections; a client of the caller's own stays open."""
        if self._owns_client:
            await self.client.close()


class _ProbingModel(Model):
    """A model whose wire API is found out at its first call."""

    def __init__(self, endpoint: Endpoint, name: str) -> None:
        self._endpoint = endpoint
        self.model = name
        self._resolved: Model | None = None

    async def _model(self) -> Model:
        if self._resolved is None:
            api = await self._endpoint.api()
            if api == "auto":
                return self._endpoint.model(self.model, "responses")  # let the call itself say what is wrong
            self._resolved = self._endpoint.model(self.model, api)
        return self._resolved

    async def get_response(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model; see the SDK's Model."""
        return await (await self._model()).get_response(*args, **kwargs)

    async def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[TResponseStreamEvent]:
        """Stream the model; see the SDK's Model."""
        async with closing((await self._model()).stream_response(*args, **kwargs)) as events:
            async for event in events:
                yield event

    def get_retry_advice(self, request: Any) -> Any:
        """Ask the resolved model, once there is one."""
        return None if self._resolved is None else self._resolved.get_retry_advice(request)

    def __getattr__(self, name: str) -> Any:
        """Give the SDK the optional hooks of the resolved model, once there is one."""
        resolved = vars(self).get("_resolved")
        if resolved is None:
            raise AttributeError(name)
        return getattr(resolved, name)


class DemoEndpoint(ModelProvider):
    """The demo model under every name."""

    def __init__(self, delay_ms: int) -> None:
        """`delay_ms`: pause between two words of a streamed answer."""
        self._model = DemoModel(delay_s=delay_ms / 1000)

    def get_model(self, model_name: str | None) -> Model:
        """Return the demo model."""
        return self._model


class _CallersModels(ModelProvider):
    """The models of a provider that belongs to the caller, who closes it; only the client is ours to close."""

    def __init__(self, inner: ModelProvider, client: AsyncOpenAI | None) -> None:
        self._inner = inner
        self._client = client

    def get_model(self, model_name: str | None) -> Model:
        """Return the caller's model of that name."""
        return self._inner.get_model(model_name)

    async def aclose(self) -> None:
        """Close the client's connections; the caller's provider stays open."""
        if self._client is not None:
            await self._client.close()


@dataclass(frozen=True, slots=True)
class Models:
    """What the provider calls models through."""

    name: Literal["openai", "demo"]
    provider: JournalModelProvider
    client: AsyncOpenAI | None
    """None where there is no endpoint: for the demo model, and for a caller's provider without a key or base URL."""
    default_model: str


def build_models(
    options: EndpointOptions, client: AsyncOpenAI | None = None, model_provider: ModelProvider | None = None
) -> Models:
    """Return the models of a caller's provider, a client, an endpoint, or, with none of them, the demo model.

    A key always means a real endpoint: the demo model never stands in for one. Next to a caller's provider, which
    makes every model that is given by name, an endpoint or client serves for conversations at the provider only.
    """
    has_endpoint = options.api_key is not None or options.base_url is not None
    if model_provider is not None:
        ours = _client(options) if client is None and has_endpoint else None
        models = JournalModelProvider(_CallersModels(model_provider, ours), options.default_model)
        return Models("openai", models, client or ours, options.default_model)
    if client is None and not has_endpoint:
        demo = DemoEndpoint(options.demo_delay_ms)
        return Models("demo", _DemoProvider(demo), None, DEMO_MODEL)
    used = client or _client(options)
    known_host = str(used.base_url.host) == "api.openai.com"
    api: WireApi = "responses" if options.api == "auto" and known_host else options.api
    endpoint = Endpoint(used, api, owns_client=client is None)
    return Models("openai", JournalModelProvider(endpoint, options.default_model), used, options.default_model)


def _client(options: EndpointOptions) -> AsyncOpenAI:
    return AsyncOpenAI(
        # Hosts without keys (a local model server) still want the header to be there.
        api_key=options.api_key or "none",
        base_url=options.base_url,
        organization=options.organization,
        project=options.project,
        timeout=openai.Timeout(options.request_timeout_s, connect=options.connect_timeout_s),
        max_retries=options.max_retries,
    )


class _DemoProvider(JournalModelProvider):
    """Recorded like any model, and named `demo` whatever name was asked for, so that no row pretends otherwise."""

    def __init__(self, inner: DemoEndpoint) -> None:
        super().__init__(cast("ModelProvider", inner), DEMO_MODEL)

    def get_model(self, model_name: str | None) -> Model:
        """Return the demo model under its own name."""
        return super().get_model(DEMO_MODEL)
