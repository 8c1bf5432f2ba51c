import asyncio, json
from collections import Counter
from typing import Any
import pytest
from agents import *
from agents import Agent, CustomTool, LocalShellTool, Model, ModelResponse, Usage, function_tool, StopAtTools, handoff, Runner
from agents.tool import ToolOutputImage, ToolOutputText, ToolOutputFileContent, ShellTool, ApplyPatchTool
from agents.testing import assistant_message, function_call
from openai.types.responses import ResponseReasoningItem, ResponseCustomToolCall
from openai.types.responses.response_output_item import LocalShellCall, LocalShellCallAction
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import create_async_engine
from app.domain.errors import *
from app.domain.models.runs import RunStatus
from app.domain.models.tools import tool_policy, current_tool_call
from app.infrastructure.providers.openai.provider import ProviderOptions, build_openai_provider
from app.infrastructure.providers.openai.run_config import RunDefaults
from app.infrastructure.providers.openai.tool_calls import output_text
from tests.provider.memory_log import MemoryLog, claimed, continued
from tests.provider.test_replay import Scripted, call

def opened(agents, log, run=None, **d):
    p = build_openai_provider(create_async_engine("sqlite+aiosqlite://"), agents, options=ProviderOptions(defaults=RunDefaults(**d)))
    return p.runtime.open(run or claimed(), log)

async def cut_everywhere(make, did=None, **d):
    """yield (writes, outcome, log)"""
    for n in range(40):
        if did is not None: did.clear()
        log = MemoryLog(writes=n)
        err = None
        try:
            out = await opened(make(), log, **d).run()
            if out.error and out.error.code == "lease_lost": raise LeaseLost("wrapped")
        except (LeaseLost, StorageUnavailable) as e:
            err = e
            log2 = continued(log)
            out = await opened(make(), log2, claimed(log, fence=2), **d).run()
            log2.flush()
            yield n, out, log2, True
            continue
        log.flush()
        yield n, out, log, False
        return

async def test_A_lost(monkeypatch):
    for err in (LeaseLost("x"), StorageUnavailable("y")):
        for n in range(4):
            @function_tool
            async def pay() -> str:
                """P."""
                return "x"
            model = Scripted("m", Counter(), [call("pay", "c1")], [assistant_message("end")])
            log = MemoryLog(writes=n, error=err)
            with pytest.raises(type(err)):
                out = await opened([Agent(name="a", model=model, tools=[pay])], log).run()
                print(n, out.status, out.error)

async def test_A_lost_nested():
    for n in range(6):
        @function_tool
        async def pay() -> str:
            """P."""
            return "x"
        inner = Agent(name="in", model=Scripted("i", Counter(), [call("pay", "c9")], [assistant_message("inend")]), tools=[pay])
        model = Scripted("m", Counter(), [call("ask", "c1", input="x")], [assistant_message("end")])
        log = MemoryLog(writes=n)
        with pytest.raises(LeaseLost):
            out = await opened([Agent(name="a", model=model, tools=[inner.as_tool("ask", "ask")])], log).run()
            print(n, out.status, out.error, log.order)

class P(BaseModel):
    a: int
    b: str = "x"

VALUES = ["text", "", None, 5, 1.5, True, {"a": 1}, {1: "a"}, [1, 2], P(a=1), [P(a=1)],
          ToolOutputImage(image_url="https://e.test/p.png"), ToolOutputText(text="hi"),
          [ToolOutputText(text="hi"), ToolOutputImage(image_url="https://e.test/p.png")],
          ToolOutputFileContent(file_data="aGk=", filename="a.txt"), b"\xff\x00", float("nan"), "\x00 \ud83d", {"x": {3}}, (1, 2)]

@pytest.mark.parametrize("value", VALUES, ids=[repr(v)[:40] for v in VALUES])
async def test_B_values(value):
    def make():
        @tool_policy("idempotent")
        @function_tool
        async def look() -> Any:
            """P."""
            return value
        model = Scripted("m", Counter(), [ResponseReasoningItem(id="rs", summary=[], type="reasoning", encrypted_content="e"), call("look", "c1")], [assistant_message("end")])
        return [Agent(name="a", model=model, tools=[look])]
    seen = []
    async for n, out, log, lost in cut_everywhere(make, on_replay_mismatch="fail"):
        assert out.status is RunStatus.COMPLETED, (n, out.error)
        seen.append(out.items)
        json.dumps([s.result for s in log.steps.values()], allow_nan=False)
    assert len(seen) > 2
    assert all(s == seen[-1] for s in seen), seen

class T(BaseModel):
    city: str

async def test_C_stop_first_tool_pydantic():
    def make():
        @tool_policy("idempotent")
        @function_tool
        async def look() -> T:
            """P."""
            return T(city="Oslo")
        model = Scripted("m", Counter(), [call("look", "c1")], [assistant_message("end")])
        return [Agent(name="a", model=model, tools=[look], tool_use_behavior="stop_on_first_tool")]
    seen = []
    async for n, out, log, lost in cut_everywhere(make):
        seen.append((out.output, out.output_text))
    assert len(set(map(repr, seen))) == 1, seen
    # second attempt after the tool was recorded (the end was lost)
    log2 = continued(log)
    out = await opened(make(), log2, claimed(log, fence=2)).run()
    assert (out.output, out.output_text) == seen[-1], (out.output, seen[-1])

async def test_C2_structured_stop():
    def make():
        @tool_policy("idempotent")
        @function_tool
        async def look() -> T:
            """P."""
            return T(city="Oslo")
        model = Scripted("m", Counter(), [call("look", "c1")], [assistant_message("end")])
        return [Agent(name="a", model=model, tools=[look], output_type=T, tool_use_behavior="stop_on_first_tool")]
    log = MemoryLog()
    first = await opened(make(), log).run(); log.flush()
    out = await opened(make(), continued(log), claimed(log, fence=2)).run()
    assert out.error is None, out.error
    assert (out.output, out.output_text) == (first.output, first.output_text)

async def test_D_tool_changed_in_place():
    p_did = []
    @function_tool
    async def look() -> str:
        """P."""
        p_did.append(1)
        return "x"
    class M(Scripted):
        async def get_response(self, *a, **k):
            self.tools = [t.name for t in a[3]]
            return await super().get_response(*a, **k)
    model = M("m", Counter(), [assistant_message("end")])
    agent = Agent(name="a", model=model, tools=[look])
    p = build_openai_provider(create_async_engine("sqlite+aiosqlite://"), [agent])
    await p.runtime.open(claimed(), MemoryLog()).run()
    assert model.tools == ["look"]
    look.is_enabled = False
    await p.runtime.open(claimed(), MemoryLog()).run()
    assert model.tools == []

def shell_call(cid="c1"):
    return LocalShellCall(id="x", call_id=cid, status="completed", type="local_shell_call", action=LocalShellCallAction(command=["ls"], env={}, type="exec"))

class ShellModel(Scripted):
    async def get_response(self, *a, **k):
        items = a[1]
        self.calls["m"] += 1
        if isinstance(items, str) or not any("output" in str(i.get("type")) for i in items):
            return ModelResponse([shell_call()], Usage(), "r1")
        if sum("output" in str(i.get("type")) for i in items) == 1 and len(self.answers) > 1:
            return ModelResponse([call("look", "c2")], Usage(), "r2")
        return ModelResponse([assistant_message("end")], Usage(), "r3")

async def test_E_shell_not_repeated():
    ran = []
    def make():
        tool = LocalShellTool(executor=lambda r: ran.append(1) or "files")
        return [Agent(name="a", model=ShellModel("m", Counter(), 1), tools=[tool])]
    async for n, out, log, lost in cut_everywhere(make):
        print(n, log.order, ran, out.status, out.error)
        if n == 2: assert len(ran) == 1, ran
        ran.clear()

async def test_E2_shell_in_replay_only():
    ran = []
    def make():
        tool = LocalShellTool(executor=lambda r: ran.append(1) or "files")
        return [Agent(name="a", model=ShellModel("m", Counter(), 1), tools=[tool])]
    log = MemoryLog(writes=1)
    await opened(make(), log).run()
    ran.clear()
    ex = opened(make(), continued(log), claimed(log, fence=2))
    await asyncio.wait_for(ex.replay(), 5)
    out = ex.interrupted("user")
    assert ran == []

async def test_F_guardrail_in_replay_only():
    ran = []
    def make():
        @input_guardrail
        async def g(_c, _a, _i):
            ran.append(1)
            return GuardrailFunctionOutput(None, False)
        @output_guardrail
        async def og(_c, _a, _i):
            ran.append(2)
            return GuardrailFunctionOutput(None, False)
        return [Agent(name="a", model=Scripted("m", Counter(), [assistant_message("end")]), input_guardrails=[g], output_guardrails=[og])]
    log = MemoryLog()
    await opened(make(), log).run()   # the output guardrail's verdict is deferred, lost
    ran.clear()
    log2 = continued(log)
    assert list(log2.steps)
    ex = opened(make(), log2, claimed(log2, fence=2))
    await asyncio.wait_for(ex.replay(), 5)
    assert ran == [], ran

@pytest.mark.parametrize("policy", ["at_most_once", "idempotent", "transactional"])
async def test_G_timeout(policy):
    began = []
    def make():
        @tool_policy(policy)
        @function_tool(timeout=0.05)
        async def slow() -> str:
            """P."""
            began.append(1)
            await asyncio.Event().wait()
        return [Agent(name="a", model=Scripted("m", Counter(), [call("slow", "c1")], [assistant_message("end")]), tools=[slow])]
    log = MemoryLog()
    out = await opened(make(), log).run(); log.flush()
    assert out.status is RunStatus.COMPLETED
    assert "timed out" in log.steps["/t:c1"].result["output"]
    assert log.steps["/t:c1"].state == "done"
    print(log.told, [e for e in log.events if e.type.startswith("tool")], log.steps["/t:c1"])
    assert log.told.count("tool.started") == log.told.count("tool.output") == 1
    assert log.steps["/t:c1"].duration_ms >= 40
    assert len(began) == 1
    out2 = await opened(make(), continued(log), claimed(log, fence=2), on_replay_mismatch="fail").run()
    assert out2.items == out.items
    assert len(began) == 1

async def test_H_tool_guardrails():
    from agents import ToolGuardrailFunctionOutput, tool_input_guardrail, tool_output_guardrail
    did = Counter()
    def make():
        @tool_input_guardrail
        def check(data):
            did["in"] += 1
            if "bad" in (data.context.tool_arguments or ""): return ToolGuardrailFunctionOutput.reject_content("no bad", output_info={"x": 1})
            return ToolGuardrailFunctionOutput.allow()
        @tool_output_guardrail
        def mask(data):
            did["out"] += 1
            return ToolGuardrailFunctionOutput.reject_content("masked")
        @function_tool(tool_input_guardrails=[check], tool_output_guardrails=[mask])
        async def look(x: str) -> str:
            """P."""
            did["body " + x] += 1
            return "secret"
        model = Scripted("m", Counter(), [call("look", "c1", x="bad"), call("look", "c2", x="good")], [assistant_message("end")])
        return [Agent(name="a", model=model, tools=[look])]
    log = MemoryLog()
    out = await opened(make(), log).run(); log.flush()
    outs = [i["output"] for i in out.items if "output" in i]
    assert sorted(outs) == ["masked", "no bad"], outs
    print(log.order, did)
    did.clear()
    out2 = await opened(make(), continued(log), claimed(log, fence=2), on_replay_mismatch="fail").run()
    assert out2.items == out.items
    assert out2.tool_calls == out.tool_calls
    assert did == {}, did

async def test_J_events_once():
    def make():
        one = Agent(name="one"); two = Agent(name="two")
        h2, h1 = handoff(two), handoff(one)
        @tool_policy("idempotent")
        @function_tool
        async def look() -> str:
            """P."""
            return "x"
        one.handoffs = [h2]; two.tools = [look]
        one.model = Scripted("one", Counter(), [call(h2.tool_name, "h")])
        two.model = Scripted("two", Counter(), [], [call("look", "c1")], [assistant_message("end")])
        two.model.answers = ([1], [call("look", "c1")], [assistant_message("end")])
        return [one, two]
    async for n, out, log, lost in cut_everywhere(make):
        assert out.status is RunStatus.COMPLETED, out.error
        c = Counter(log.told)
        print(n, log.told)

async def test_M_custom_tool_replay():
    ran = []
    class CM(Scripted):
        async def get_response(self, *a, **k):
            items = a[1]
            if isinstance(items, str) or not any("output" in str(i.get("type")) for i in items):
                return ModelResponse([ResponseCustomToolCall(call_id="c1", input="raw", name="raw", type="custom_tool_call")], Usage(), "r1")
            return ModelResponse([assistant_message("end")], Usage(), "r3")
    def make():
        async def go(ctx, text):
            ran.append(current_tool_call().idempotency_key)
            return "did " + text
        return [Agent(name="a", model=CM("m", Counter(), 1), tools=[CustomTool(name="raw", description="d", on_invoke_tool=go)])]
    log = MemoryLog()
    out = await opened(make(), log).run(); log.flush()
    assert out.status is RunStatus.COMPLETED, out.error
    print(log.order, out.items)
    out2 = await opened(make(), continued(log), claimed(log, fence=2), on_replay_mismatch="fail").run()
    assert out2.items == out.items and len(ran) == 1

async def test_P_unknown_started_once():
    def make():
        @function_tool
        async def pay() -> str:
            """P."""
            return "x"
        return [Agent(name="a", model=Scripted("m", Counter(), [call("pay", "c1")], [assistant_message("end")]), tools=[pay])]
    log = MemoryLog(writes=2)
    await opened(make(), log).run()
    assert log.steps["/t:c1"].state == "started"
    log2 = continued(log)
    out = await opened(make(), log2, claimed(log, fence=2)).run(); log2.flush()
    assert log2.told.count("tool.started") == 1, log2.told

async def test_R_sync_tool_context_and_r2():
    keys = []
    inner = Agent(name="in", model=Scripted("i", Counter(), [assistant_message("in")]))
    def make():
        @function_tool
        def s() -> str:
            """P."""
            keys.append(current_tool_call().idempotency_key)
            return "x"
        @function_tool
        async def two() -> str:
            """P."""
            a = await Runner.run(inner, "1"); b = await Runner.run(inner, "2")
            return a.final_output + b.final_output
        return [Agent(name="a", model=Scripted("m", Counter(), [call("s", "c1"), call("two", "c2"), call("two", "c3")], [assistant_message("end")]), tools=[s, two])]
    log = MemoryLog()
    out = await opened(make(), log).run(); log.flush()
    assert out.status is RunStatus.COMPLETED, out.error
    assert keys == ["run_1:/t:c1"]
    assert {k for k in log.steps if "/m" in k} == {"/m1", "/m2", "/t:c2/m1", "/t:c2/r2/m1", "/t:c3/m1", "/t:c3/r2/m1"}
