"""Tools of a real MCP server over stdio, declared and native, plain and streamed."""

import sys
from pathlib import Path
from typing import Any

import pytest
from agents import Agent
from agents.mcp import MCPServerStdio
from agents.testing import ScriptedModel, assistant_message, function_call

from app.domain.models.agents import AgentSpec, McpServerSpec
from tests.fakes.openai import Call, FakeOpenAI
from tests.provider.serving import Ran, endpoint

STDIO: Any = {"command": sys.executable, "args": [str(Path(__file__).parents[1] / "fakes" / "mcp_server.py")]}


def shouted(ran: Ran) -> None:
    assert ran.result.output == "done", ran.result.error
    (call,) = ran.result.tool_calls
    assert (call.name, call.arguments) == ("shout", '{"text": "hi"}')
    assert call.output == "HI"
    assert ran.result.items[2]["output"] == [{"type": "input_text", "text": "HI"}]
    assert ran.kinds == ["user", "function_call", "function_call_output", "assistant"]
    assert [event.type for event in ran.events if event.type.startswith("tool.")][-2:] == [
        "tool.started",
        "tool.output",
    ]


async def test_a_native_agent_s_server(serve: Any) -> None:
    model = ScriptedModel(
        [[function_call("shout", '{"text": "hi"}', call_id="call_1")], [assistant_message("done")]] * 2
    )
    served = await serve(Agent(name="a", model=model, mcp_servers=[MCPServerStdio(STDIO, name="words")]))
    for stream in (False, True):
        shouted(await served.run("go", stream=stream))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_declared_agent_s_server(serve: Any, fake: FakeOpenAI, stream: bool) -> None:
    server = McpServerSpec("words", "stdio", STDIO, allowed_tools=("shout",))
    spec = AgentSpec(key="a", description="d", instructions="i", mcp_servers=[server])
    served = await serve(spec, options=endpoint(fake))
    fake.script([Call("shout", {"text": "hi"}, "call_1"), "done"])
    shouted(await served.run("go", stream=stream))
    assert [tool["name"] for tool in fake.requests[0].body["tools"]] == ["shout"]
