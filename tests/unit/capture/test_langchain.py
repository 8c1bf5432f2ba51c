import asyncio
import builtins
import importlib
import sys
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, ChatResult, Generation, LLMResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tools import tool

from app.capture.langchain import SessionCompletionCallback
from app.capture.ports import stable_event_id
from tests.unit.capture.recorder import Broken, Recorder

USAGE = {
    "input_tokens": 10, "output_tokens": 5, "total_tokens": 15,
    "input_token_details": {"cache_read": 4}, "output_token_details": {"reasoning": 2},
}  # fmt: skip


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def answer(text: str, **more: Any) -> AIMessage:
    return AIMessage(content=text, usage_metadata=USAGE, response_metadata={"model_name": "gpt-4o"}, **more)


def model(*texts: str) -> FakeMessagesListChatModel:
    return FakeMessagesListChatModel(responses=[answer(text) for text in texts])


def chain(*texts: str) -> Any:
    return ChatPromptTemplate.from_messages([("system", "short"), ("user", "{question}")]) | model(*texts)


@tool
def search(query: str) -> str:
    """Search."""
    return f"results for {query}"


@tool
def broken_search(query: str) -> str:
    """Search in vain."""
    raise ValueError("secret words")


@RunnableLambda
def agent(question: str) -> str:
    """Call a model, a tool and the model again, as agents do."""
    fake = model("look", "done")
    messages: list[BaseMessage] = [HumanMessage(question)]
    messages.append(fake.invoke(messages))
    messages.append(HumanMessage(search.invoke({"query": question})))
    return str(fake.invoke(messages).content)


def config(callback: SessionCompletionCallback, **more: Any) -> Any:
    return {"callbacks": [callback], **more}


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
async def test_a_chain_is_one_event(recorder: Recorder, way: str) -> None:
    callback = SessionCompletionCallback(recorder, session_id="s1", user_id="u1", metadata={"team": "north"})
    run_id = uuid.uuid4()
    options = config(callback, run_id=run_id)
    given = {"question": "why?"}
    match way:
        case "invoke":
            chain("because").invoke(given, options)
        case "ainvoke":
            await chain("because").ainvoke(given, options)
        case "stream":
            list(chain("because").stream(given, options))
        case _:
            assert [chunk async for chunk in chain("because").astream(given, options)]
    event = recorder.only
    assert event["event_id"] == stable_event_id("langchain.run", str(run_id))
    assert (event["session_id"], event["user_id"], event["session_type"]) == ("s1", "u1", "autonomous")
    assert event["usage"] == {
        "requests": 1, "input_tokens": 10, "output_tokens": 5, "total_tokens": 15,
        "cached_tokens": 4, "reasoning_tokens": 2,
    }  # fmt: skip
    assert event["models"] == ["gpt-4o"]
    assert event["outcome"] == {"status": "success", "error_code": None}
    assert (event["message_count"], event["tool_call_count"], event["final_output"]) == (3, 0, "because")
    assert event["metadata"] == {"team": "north", "run_id": str(run_id)}
    assert event["duration_ms"] >= 0
    assert (callback.open_runs, callback.abandoned) == (0, 0)


def test_an_agents_calls_are_summed(recorder: Recorder) -> None:
    agent.invoke("why?", config(SessionCompletionCallback(recorder, session_id="s1")))
    event = recorder.only
    assert (event["usage"]["total_tokens"], event["usage"]["requests"]) == (30, 2)
    assert (event["tool_call_count"], event["message_count"], event["final_output"]) == (1, 4, "done")


def test_a_model_alone_is_a_run(recorder: Recorder) -> None:
    callback = SessionCompletionCallback(recorder, session_id="s1")
    model("hi").invoke([SystemMessage("x"), HumanMessage("y")], config(callback))
    assert recorder.only["final_output"] == "hi"
    assert recorder.only["message_count"] == 3


def test_a_tool_alone_is_no_session(recorder: Recorder) -> None:
    callback = SessionCompletionCallback(recorder, session_id="s1")
    search.invoke({"query": "x"}, config(callback))
    with pytest.raises(ValueError, match="secret"):
        broken_search.invoke({"query": "x"}, config(callback))
    assert recorder.events == []
    assert callback.open_runs == 0


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_failure_is_an_error_and_goes_on(recorder: Recorder, *, is_async: bool) -> None:
    failing = chain("look") | RunnableLambda(lambda message: broken_search.invoke({"query": message.content}))
    options = config(SessionCompletionCallback(recorder, session_id="s1"))
    with pytest.raises(ValueError, match="secret"):
        await failing.ainvoke({"question": "x"}, options) if is_async else failing.invoke({"question": "x"}, options)
    event = recorder.only
    assert event["outcome"] == {"status": "error", "error_code": "value_error"}
    assert event["usage"]["total_tokens"] == 15
    assert "final_output" not in event
    assert "secret" not in str(event)


def test_a_model_that_fails_is_counted(recorder: Recorder) -> None:
    class Late(FakeMessagesListChatModel):
        def _generate(self, *_: Any, **__: Any) -> ChatResult:
            raise TimeoutError("late")

    with pytest.raises(TimeoutError):
        (RunnableLambda(lambda x: x) | Late(responses=[])).invoke("x", config(SessionCompletionCallback(recorder)))
    assert recorder.only["outcome"] == {"status": "timeout", "error_code": "timeout_error"}
    assert recorder.only["usage"] == {"requests": 1}


def test_a_step_that_fails_and_is_made_good_is_no_error(recorder: Recorder) -> None:
    failing: Any = RunnableLambda(lambda _: broken_search.invoke({"query": "x"}))
    steps = failing.with_fallbacks([RunnableLambda(lambda _: "instead")])
    assert steps.invoke("x", config(SessionCompletionCallback(recorder))) == "instead"
    assert recorder.only["outcome"]["status"] == "success"
    assert recorder.only["tool_call_count"] == 1


async def test_a_cancelled_run_is_the_users_doing(recorder: Recorder) -> None:
    called = asyncio.Event()

    async def never(_: Any) -> None:
        called.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(
        RunnableLambda(never).ainvoke("x", config(SessionCompletionCallback(recorder, session_id="s1")))
    )
    await called.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorder.only["outcome"]["status"] == "user_terminated"


def test_a_stream_that_nobody_reads_on_is_captured(recorder: Recorder) -> None:
    talking = GenericFakeChatModel(messages=iter([AIMessage("one two three")]))
    stream: Any = (RunnableLambda(lambda x: x) | talking).stream(
        "x", config(SessionCompletionCallback(recorder, session_id="s1"))
    )
    next(stream)
    stream.close()
    assert recorder.only["outcome"]["status"] == "success", "LangChain tells it no other way"
    assert recorder.only["first_token_ms"] >= 0


@pytest.mark.parametrize("key", ["session_id", "thread_id", "conversation_id"])
def test_the_call_names_the_session(recorder: Recorder, key: str) -> None:
    told = {key: "s7", "user_id": "u7", "organization_id": "acme"}
    chain("x").invoke({"question": "y"}, config(SessionCompletionCallback(recorder), metadata=told))
    event = recorder.only
    assert (event["session_id"], event["user_id"], event["organization_id"]) == ("s7", "u7", "acme")


def test_without_a_session_the_run_is_one(recorder: Recorder) -> None:
    chain("x").invoke({"question": "y"}, config(SessionCompletionCallback(recorder, content=False)))
    assert recorder.only["session_id"] == recorder.only["metadata"]["run_id"]
    assert "final_output" not in recorder.only


async def test_many_runs_at_once_are_told_apart(recorder: Recorder) -> None:
    callback = SessionCompletionCallback(recorder)
    parallel: Any = RunnableParallel(one=chain("a"), two=chain("b"))
    given = {"question": "x"}
    await asyncio.gather(
        *[parallel.ainvoke(given, config(callback, metadata={"session_id": f"t{n}"})) for n in range(10)]
    )
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: parallel.invoke(given, config(callback, metadata={"session_id": f"h{n}"})), range(10)))
    assert sorted(event["session_id"] for event in recorder.events) == sorted(
        [f"t{n}" for n in range(10)] + [f"h{n}" for n in range(10)]
    )
    assert {event["usage"]["total_tokens"] for event in recorder.events} == {30}
    assert callback.open_runs == 0


def test_a_batch_is_an_event_each(recorder: Recorder) -> None:
    chain("a").batch([{"question": "x"}] * 3, config(SessionCompletionCallback(recorder, session_id="s1")))
    assert len({event["event_id"] for event in recorder.events}) == 3


@pytest.mark.parametrize(
    ("output", "figures"),
    [
        (
            {"token_usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}, "model_name": "m"},
            (7, 3, 10),
        ),
        ({"usage": {"input_tokens": 7, "output_tokens": 3}, "model": "m"}, (7, 3, 10)),
    ],
    ids=["openai", "anthropic"],
)
def test_usage_of_the_whole_call_counts_where_messages_tell_none(
    recorder: Recorder, output: dict[str, Any], figures: tuple[int, int, int]
) -> None:
    class Plain(FakeMessagesListChatModel):
        def _generate(
            self,
            messages: list[BaseMessage],
            stop: list[str] | None = None,
            run_manager: CallbackManagerForLLMRun | None = None,
            **_: Any,
        ) -> ChatResult:
            return ChatResult(generations=[ChatGeneration(message=AIMessage("x"))], llm_output=output)

    Plain(responses=[]).invoke("x", config(SessionCompletionCallback(recorder, session_id="s1")))
    told = recorder.only["usage"]
    assert (told["input_tokens"], told["output_tokens"], told["total_tokens"]) == figures
    assert recorder.only["models"] == ["m"]


def test_a_text_model_counts_too(recorder: Recorder) -> None:
    FakeListLLM(responses=["words"]).invoke("x", config(SessionCompletionCallback(recorder, session_id="s1")))
    assert recorder.only["final_output"] == "words"
    assert recorder.only["usage"] == {"requests": 1}


def test_candidates_of_one_prompt_share_their_usage(recorder: Recorder) -> None:
    callback = SessionCompletionCallback(recorder, session_id="s1")
    run_id = uuid.uuid4()
    callback.on_chat_model_start({}, [[HumanMessage("x")]], run_id=run_id)
    both: Sequence[Generation] = [ChatGeneration(message=answer("a")), ChatGeneration(message=answer("b"))]
    callback.on_llm_end(LLMResult(generations=[list(both)]), run_id=run_id)
    assert recorder.only["usage"]["total_tokens"] == 15


@pytest.mark.parametrize(
    ("output", "final"),
    [
        ({"output": "a"}, "a"),
        ({"messages": [HumanMessage("q"), AIMessage("b")]}, "b"),
        ({"unknown": 1}, None),
        ([1, 2], None),
        ("x" * 100_000, "x" * 32_768),
    ],
    ids=["output", "messages", "unknown", "list", "long"],
)
def test_the_final_output_is_found(recorder: Recorder, output: Any, final: str | None) -> None:
    RunnableLambda(lambda _: output).invoke("x", config(SessionCompletionCallback(recorder, session_id="s1")))
    assert recorder.only.get("final_output") == final


def test_runs_that_never_end_are_bounded_and_counted(recorder: Recorder) -> None:
    callback = SessionCompletionCallback(recorder, session_id="s1", max_open_runs=3)
    runs = [uuid.uuid4() for _ in range(8)]
    for run in runs:
        callback.on_chain_start({}, {}, run_id=run)
        callback.on_tool_start({}, "x", run_id=uuid.uuid4(), parent_run_id=run)
    assert (callback.open_runs, callback.abandoned) == (3, 5)
    for run in runs:
        callback.on_chain_end({}, run_id=run)
    assert len(recorder.events) == 3
    assert callback._roots == {}


def test_a_broken_runtime_breaks_no_chain() -> None:
    broken = Broken()
    assert chain("x").invoke({"question": "y"}, config(SessionCompletionCallback(broken))).content == "x"
    assert broken.calls == 1


@pytest.fixture
def without_langchain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.startswith("langchain_core"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "app.capture.langchain")
    monkeypatch.setattr(builtins, "__import__", refuse)
    yield


@pytest.mark.usefixtures("without_langchain")
def test_without_langchain_the_import_says_what_to_install() -> None:
    with pytest.raises(ImportError, match=r"pip install 'durable-agents\[langchain\]'"):
        importlib.import_module("app.capture.langchain")
