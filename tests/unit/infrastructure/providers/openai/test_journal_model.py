"""The recording model: transparent outside of runs, survives copies, closes what it opens, asks for usage."""

import asyncio
import copy
import pickle
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from agents import Model, ModelProvider, ModelSettings, ModelTracing
from agents.items import ModelResponse
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from agents.usage import Usage

from app.domain.errors import ProviderError
from app.domain.models.conversations import Caller
from app.infrastructure.providers.openai.context import ACTIVE_RUN, ActiveRun, RunContext
from app.infrastructure.providers.openai.journal_model import JournalModel, JournalModelProvider, model_name_of
from tests.recordings import MemoryLog, recording_of

ARGUMENTS: Any = (None, "hello", ModelSettings(), [], None, [], ModelTracing.DISABLED)
STATE: Any = {"previous_response_id": None, "conversation_id": None, "prompt": None}


def active(*, stream: bool) -> tuple[ActiveRun, MemoryLog]:
    log = MemoryLog()
    context = RunContext("run_1", "conv_1", Caller("acme"), "a", {}, {})
    return ActiveRun(context, recording_of(log, stream=stream), ""), log


async def call(model: Model, *, stream: bool | None, **state: Any) -> tuple[ModelResponse, MemoryLog | None]:
    """Call a model inside of a run, streamed or not, or outside of one."""
    if stream is None:
        return await model.get_response(*ARGUMENTS, **{**STATE, **state}), None
    run, log = active(stream=stream)
    token = ACTIVE_RUN.set(run)
    try:
        return await model.get_response(*ARGUMENTS, **{**STATE, **state}), log
    finally:
        ACTIVE_RUN.reset(token)


class Inner(ScriptedModel):
    """A model with the optional hooks that the SDK looks for by name."""

    model = "inner-1"

    def _supports_default_prompt_cache_key(self) -> bool:
        return True


async def test_outside_of_a_run_nothing_is_changed() -> None:
    inner = ScriptedModel([[assistant_message("a")], [assistant_message("b")]])
    model = JournalModel(inner, "m")
    response, _ = await call(model, stream=None)
    assert response.output == [assistant_message("a")]
    events = [event async for event in model.stream_response(*ARGUMENTS, **STATE)]
    assert events[-1].type == "response.completed"
    assert inner.last_call is not None
    assert inner.last_call.model_settings.include_usage is None


def test_it_can_be_copied_and_pickled() -> None:
    model = JournalModel(Inner(), "m")
    assert copy.copy(model).inner is model.inner
    assert copy.deepcopy(model).model == "m"
    assert JournalModel.__new__(JournalModel).__class__ is JournalModel
    with pytest.raises(AttributeError):
        _ = JournalModel.__new__(JournalModel).anything
    assert pickle.loads(pickle.dumps(JournalModel(SimpleNamespace(a=1), "m"))).inner.a == 1  # type: ignore[arg-type]


def test_optional_hooks_of_the_model_are_found() -> None:
    model = JournalModel(Inner(), "m")
    assert model._supports_default_prompt_cache_key() is True
    with pytest.raises(AttributeError):
        _ = model.no_such_hook
    assert model_name_of(Inner()) == "inner-1"
    assert model_name_of(ScriptedModel()) == "ScriptedModel"


async def test_usage_is_asked_for_when_streaming_and_only_then() -> None:
    inner = ScriptedModel([[assistant_message("a")]] * 3)
    model = JournalModel(inner, "m")
    await call(model, stream=True)
    assert inner.last_call.model_settings.include_usage is True
    await call(model, stream=False)
    assert inner.last_call.model_settings.include_usage is None
    run, _ = active(stream=True)
    token = ACTIVE_RUN.set(run)
    settings = ModelSettings(include_usage=False)
    await model.get_response(None, "hello", settings, [], None, [], ModelTracing.DISABLED, **STATE)
    ACTIVE_RUN.reset(token)
    assert inner.last_call.model_settings.include_usage is False


@pytest.mark.parametrize("stream", [False, True])
async def test_an_endpoint_without_usage_is_estimated(stream: bool) -> None:
    none = ModelStep(output=[assistant_message("an answer of some words")], usage=Usage(requests=1))
    _, log = await call(JournalModel(ScriptedModel([none]), "m"), stream=stream)
    assert log is not None
    (used,) = log.calls
    assert used.accuracy == "estimated"
    assert used.tokens.input_tokens > 0
    assert used.tokens.output_tokens == 5


async def test_the_response_of_the_model_is_not_changed() -> None:
    given = ModelResponse(
        output=[function_call("f", {}, call_id="call_0"), function_call("f", {}, call_id="call_0")],
        usage=Usage(requests=1, input_tokens=1, output_tokens=1, total_tokens=2),
        response_id="resp_1",
    )

    class Same(ScriptedModel):
        async def get_response(self, *_args: Any, **_kwargs: Any) -> ModelResponse:
            return given

    response, _ = await call(JournalModel(Same(), "m"), stream=False)
    assert [item.call_id for item in given.output] == ["call_0", "call_0"]
    ids = [item.call_id for item in response.output]
    assert ids[0] == "call_0"
    assert ids[1] != "call_0"


async def test_ids_of_a_history_at_the_provider_are_its_own() -> None:
    twice = [function_call("f", {}, call_id="call_0"), function_call("f", {}, call_id="call_0")]
    response, _ = await call(JournalModel(ScriptedModel([twice]), "m"), stream=False, conversation_id="conv_1")
    assert [item.call_id for item in response.output] == ["call_0", "call_0"]


class Handwritten:
    """An async iterator that is no generator: it cannot be closed."""

    def __init__(self, events: list[Any]) -> None:
        self._events = iter(events)

    def __aiter__(self) -> "Handwritten":
        return self

    async def __anext__(self) -> Any:
        try:
            return next(self._events)
        except StopIteration:
            raise StopAsyncIteration from None


@pytest.mark.parametrize("inside", [True, False])
async def test_a_stream_that_is_no_generator(inside: bool) -> None:
    events = [event async for event in ScriptedModel([[assistant_message("a b")]]).stream_response(*ARGUMENTS, **STATE)]

    class Plain(ScriptedModel):
        def stream_response(self, *_args: Any, **_kwargs: Any) -> Any:
            return Handwritten(events)

    model = JournalModel(Plain(), "m")
    if inside:
        response, _ = await call(model, stream=True)
        assert response.output == [assistant_message("a b")]
    else:
        assert [event async for event in model.stream_response(*ARGUMENTS, **STATE)] == events


@pytest.mark.parametrize("inside", [True, False])
async def test_a_reader_that_leaves_closes_the_model_s_stream(inside: bool) -> None:
    closed: list[str] = []

    class Endless(ScriptedModel):
        async def stream_response(self, *_args: Any, **_kwargs: Any) -> AsyncIterator[Any]:
            try:
                while True:
                    yield SimpleNamespace(type="response.created")
            finally:
                closed.append("closed")

    run, log = active(stream=True)
    token = ACTIVE_RUN.set(run if inside else None)
    stream: Any = JournalModel(Endless(), "m").stream_response(*ARGUMENTS, **STATE)
    await anext(stream)
    await stream.aclose()
    ACTIVE_RUN.reset(token)
    assert closed == ["closed"]
    assert [one.outcome for one in log.calls] == (["cancelled"] if inside else [])


async def test_a_stream_without_an_end_is_a_failed_call() -> None:
    class Short(ScriptedModel):
        async def stream_response(self, *_args: Any, **_kwargs: Any) -> AsyncIterator[Any]:
            yield SimpleNamespace(type="response.created")

    model = JournalModel(Short(), "m")
    with pytest.raises(ProviderError):
        await call(model, stream=True)
    run, log = active(stream=True)
    token = ACTIVE_RUN.set(run)
    async for _ in model.stream_response(*ARGUMENTS, **STATE):
        pass
    ACTIVE_RUN.reset(token)
    assert [one.outcome for one in log.calls] == ["error"]


@pytest.mark.parametrize("kind", ["response.failed", "response.error", "error", "response.incomplete"])
async def test_ends_of_a_stream_that_are_failures(kind: str) -> None:
    class Broken(ScriptedModel):
        async def stream_response(self, *_args: Any, **_kwargs: Any) -> AsyncIterator[Any]:
            yield SimpleNamespace(type=kind)
            await asyncio.Event().wait()  # the connection stays open

    with pytest.raises(ProviderError):
        await call(JournalModel(Broken(), "m"), stream=True)


class Provider(ModelProvider):
    def __init__(self) -> None:
        self.asked: list[str | None] = []
        self.closed = False

    def get_model(self, model_name: str | None) -> Model:
        self.asked.append(model_name)
        return ScriptedModel()

    async def aclose(self) -> None:
        self.closed = True


async def test_the_provider_keeps_one_model_a_name_and_not_too_many() -> None:
    inner = Provider()
    provider = JournalModelProvider(inner, "default")
    assert provider.get_model(None) is provider.get_model("default") is provider.get_model("")
    for number in range(1_000):
        provider.get_model(f"made-up-{number}")
    assert len(provider._models) <= 256
    assert len(provider.get_model("x" * 999).model) == 255
    await provider.aclose()
    assert inner.closed
    nameless = JournalModelProvider(inner, None)
    assert nameless.get_model(None).model == "ScriptedModel"
    assert inner.asked[-1] is None


async def test_a_call_is_timed() -> None:
    before = datetime.now(UTC)
    _, log = await call(JournalModel(ScriptedModel([[assistant_message("a")]]), "m"), stream=True)
    assert log is not None
    (used,) = log.calls
    assert before <= used.started_at
    assert used.first_token_ms is not None
    assert used.first_token_ms is not None
    assert used.latency_ms >= used.first_token_ms
