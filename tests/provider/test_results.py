"""What a run gives back and leaves behind: everything one needs to bill, trace and show it."""

import threading
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from agents import Agent, function_tool, trace
from agents.testing import ScriptedModel, assistant_message, function_call
from agents.tracing import get_trace_provider

from app.domain.models.agents import AgentSpec
from app.domain.models.conversations import Caller
from app.infrastructure.providers.openai import spans
from tests.fakes.openai import Call, FakeOpenAI, Usage
from tests.fakes.openai import Reply as FakeReply
from tests.fakes.openai import Text as FakeText
from tests.provider.serving import endpoint


@function_tool
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


@pytest.mark.parametrize("stream", [False, True])
async def test_a_result_carries_everything(serve: Any, fake: FakeOpenAI, stream: bool) -> None:
    back = Agent(name="back")
    front = Agent(name="front", tools=[double], handoffs=[back])
    served = await serve(front, options=endpoint(fake))
    fake.script(
        [
            Call("double", {"number": 2}, "call_1"),
            Call("transfer_to_back", {}, "call_2"),
            FakeReply((FakeText("four"),), usage=Usage(input=1_000_000, output=1_000_000)),
        ]
    )
    before = datetime.now(UTC)
    ran = await served.run("twice 2?", stream=stream)
    result = ran.result
    assert result.output == "four"
    assert result.agent == "back"
    assert len(result.items) == 6
    assert [(call.name, call.arguments, call.output) for call in result.tool_calls] == [
        ("double", '{"number": 2}', "4")
    ]
    assert [(one.from_agent, one.to_agent) for one in result.handoffs] == [("front", "back")]
    assert [call.step for call in result.calls] == ["/m1", "/m2", "/m3"]
    assert result.usage.requests == 3
    assert result.usage.output_tokens > 1_000_000
    assert result.cost_usd == sum((call.price.cost_usd for call in result.calls if call.price), Decimal(0))
    assert result.cost_usd > 0
    assert len(set(result.response_ids)) == 3
    assert before <= result.timings.created_at <= result.timings.finished_at
    assert (result.timings.first_token_ms is not None) is stream
    assert result.trace_id is not None
    assert result.trace_id.startswith("trace_")
    assert (await served.row(result.run_id)).trace_id == result.trace_id


async def test_spans_are_kept_without_content(serve: Any) -> None:
    inner = Agent(name="inner", model=ScriptedModel([[assistant_message("the secret")]], emit_traces=True))
    model = ScriptedModel(
        [[function_call("ask", {"input": "secret"}, call_id="call_1")], [assistant_message("ok")]], emit_traces=True
    )
    served = await serve(Agent(name="outer", model=model, tools=[inner.as_tool("ask", "Ask.")]))
    ran = await served.run("the secret question")
    kept = (await served.row(ran.result.run_id)).spans
    types = [span["type"] for span in kept]
    assert types.count("generation") == 3
    assert {"agent", "function", "turn", "task"} <= set(types)
    assert {span["name"] for span in kept if span["type"] == "agent"} == {"outer", "inner"}
    assert all(span["started_at"] and span["ended_at"] and not span["failed"] for span in kept)
    assert "secret" not in str(kept)


async def test_a_failed_span_says_so(serve: Any) -> None:
    model = ScriptedModel([RuntimeError("secret")], emit_traces=True)
    served = await serve(Agent(name="a", model=model))
    ran = await served.run("go")
    kept = (await served.row(ran.result.run_id)).spans
    assert any(span["failed"] for span in kept)
    assert "secret" not in str(kept)


async def test_a_caller_s_own_trace_is_joined(serve: Any) -> None:
    served = await serve(Agent(name="a", model=ScriptedModel([[assistant_message("ok")]])))
    with trace("mine") as mine:
        ran = await served.run("go")
    assert ran.result.trace_id == mine.trace_id


@pytest.fixture
def exporters(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Start from the SDK's own processors, and put back what was there."""
    provider = get_trace_provider()
    known = provider._multi_processor._processors
    installed = list(spans._installed)
    from agents.tracing.processors import default_processor

    provider.set_processors([default_processor()])
    spans._installed.clear()

    def names() -> list[str]:
        return [type(one).__name__ for one in provider._multi_processor._processors]

    yield names
    provider.set_processors(list(known))
    spans._installed[:] = installed


async def test_the_sdk_s_exporter_is_off_unless_wanted(exporters: Any) -> None:
    assert exporters() == ["BatchTraceProcessor"]
    spans.install(export_to_openai=False)
    assert exporters() == ["SpanCollector"]
    spans.install(export_to_openai=True)
    assert sorted(exporters()) == ["BatchTraceProcessor", "SpanCollector"]
    spans.install(export_to_openai=True)
    assert len(exporters()) == 2


async def test_the_exporter_stays_when_wanted_and_what_others_add_stays_too(exporters: Any) -> None:
    spans.install(export_to_openai=True)
    assert sorted(exporters()) == ["BatchTraceProcessor", "SpanCollector"]
    spans.install(export_to_openai=False)
    get_trace_provider().register_processor(spans.SpanCollector())
    spans.install(export_to_openai=False)
    assert exporters() == ["SpanCollector", "SpanCollector"]


async def test_nothing_is_exported_by_default(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a key in the environment the SDK would post every trace to OpenAI; `no_network` watches as well."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody")
    served = await serve(Agent(name="a", model=ScriptedModel([[assistant_message("ok")]])))
    await served.run("go")
    get_trace_provider().force_flush()
    assert not any("trace" in thread.name.lower() for thread in threading.enumerate())


async def test_the_search_tool_finds_the_caller_s_own_messages_only(serve: Any, fake: FakeOpenAI) -> None:
    spec = AgentSpec(key="a", description="d", instructions="i", tools=["search_conversations"])
    served = await serve(spec, options=endpoint(fake))
    ada, bob, eve = Caller("acme", "ada"), Caller("acme", "bob"), Caller("other", "ada")
    for caller in (ada, bob, eve):
        fake.script([f"noted for {caller.organization_id} {caller.user_id}"])
        await served.run(f"the giraffe of {caller.organization_id} {caller.user_id}", caller=caller)
    for caller in (ada, bob, eve):
        fake.script([Call("search_conversations", {"query": "giraffe", "limit": 99}, "call_1"), "done"])
        ran = await served.run("where was it?", caller=caller)
        found = ran.result.tool_calls[0].output or ""
        assert f"giraffe of {caller.organization_id} {caller.user_id}" in found
        assert found.count("giraffe of") == 1
    fake.script([Call("search_conversations", {"query": "rhinoceros", "limit": -1}, "call_1"), "done"])
    ran = await served.run("and that?")
    assert ran.result.tool_calls[0].output == "No message holds 'rhinoceros'."
