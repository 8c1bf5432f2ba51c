"""MCP servers: declared and native ones, connected for real over stdio."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, Runner
from agents.mcp import MCPServer, MCPServerSse, MCPServerStdio, MCPServerStreamableHttp
from agents.testing import assistant_message, function_call

from app.domain.errors import ConfigurationError
from app.domain.models.agents import AgentToolSpec, McpServerSpec
from app.infrastructure.providers.openai.registry.mcp import build_mcp_server
from tests.unit.infrastructure.providers.openai.registry.building import Scripts, registry_of, spec

SCRIPT = Path(__file__).parents[5] / "fakes" / "mcp_server.py"
STDIO = {"command": sys.executable, "args": [str(SCRIPT)]}


def local(name: str = "words", **fields: Any) -> McpServerSpec:
    return McpServerSpec(name, "stdio", STDIO, **fields)


class Recorder(MCPServer):
    """A server in this process, which counts its connections."""

    def __init__(self, name: str, error: Exception | None = None) -> None:
        super().__init__()
        self._name = name
        self.error = error
        self.events: list[str] = []
        self.tasks: list[Any] = []

    @property
    def name(self) -> str:
        return self._name

    async def connect(self) -> None:
        self.events.append("connect")
        self.tasks.append(asyncio.current_task())
        if self.error is not None:
            raise self.error

    async def cleanup(self) -> None:
        self.events.append("cleanup")
        self.tasks.append(asyncio.current_task())

    async def list_tools(self, *_: Any, **__: Any) -> Any:
        return []

    async def call_tool(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    async def list_prompts(self) -> Any:
        raise NotImplementedError

    async def get_prompt(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


async def test_a_real_server_over_stdio() -> None:
    registry = registry_of(spec(mcp_servers=(local(allowed_tools=("shout",)),), model="m"))
    assert registry.get("helper").descriptor.tools == ("words",)
    assert [(tool.name, tool.kind) for tool in registry.tool_overview()] == [("words", "mcp")]
    models = Scripts(m=[[function_call("shout", {"text": "hi"}, call_id="c1")], [assistant_message("done")]])
    await registry.connect()
    try:
        assert [tool.name for tool in await registry.mcp_servers[0].list_tools(None, None)] == ["shout"]
        await Runner.run(registry.get("helper").agent, "x", run_config=models.config())
    finally:
        await asyncio.create_task(registry.aclose())  # another task than the one that connected
    assert "HI" in str(models.seen("m", 1)[-1]["output"])


async def test_a_server_that_cannot_start() -> None:
    broken = McpServerSpec("broken", "stdio", {"command": "/nowhere/at-all"})
    registry = registry_of(spec(mcp_servers=(broken,)))
    with pytest.raises(ConfigurationError, match=r"MCP server 'broken' \("):
        await registry.connect()
    await registry.aclose()


async def test_one_failure_closes_all() -> None:
    good, bad = Recorder("good"), Recorder("bad", ConnectionError("refused"))
    registry = registry_of(Agent(name="a", mcp_servers=[good, bad]))
    with pytest.raises(ConfigurationError, match=r"'bad' \(ConnectionError: refused\)"):
        await registry.connect()
    assert good.events == ["connect", "cleanup"]


async def test_a_server_that_hangs() -> None:
    class Hanging(Recorder):
        async def connect(self) -> None:
            await asyncio.Event().wait()

    registry = registry_of(Agent(name="a", mcp_servers=[Hanging("slow")]))
    with pytest.raises(ConfigurationError, match=r"'slow' \(TimeoutError"):
        await registry.connect(timeout_s=0.05)


async def test_native_servers_wherever_they_are() -> None:
    servers = [Recorder(name) for name in ("own", "behind-handoff", "behind-tool")]
    inner = Agent(name="inner", mcp_servers=[servers[2]])
    other = Agent(name="other", mcp_servers=[servers[1]], tools=[inner.as_tool("inner", "Inner.")])
    native = Agent(name="Native", mcp_servers=[servers[0]], handoffs=[other])
    other.handoffs.append(native)
    registry = registry_of(native, spec("front", agent_tools=(AgentToolSpec("native"),)))
    assert {server.name for server in registry.mcp_servers} == {server.name for server in servers}
    await registry.connect()
    await registry.connect()
    await registry.aclose()
    await registry.aclose()
    for server in servers:
        assert server.events == ["connect", "cleanup"]
        assert server.tasks[0] is server.tasks[1]


async def test_a_connected_server_stays_with_its_owner() -> None:
    server = Recorder("theirs")
    server.session = object()  # type: ignore[attr-defined]
    registry = registry_of(Agent(name="a", mcp_servers=[server]))
    await registry.connect()
    await registry.aclose()
    assert server.events == []


def test_equal_declarations_share_a_server() -> None:
    registry = registry_of(spec("a", mcp_servers=(local(),)), spec("b", mcp_servers=(local(),)))
    assert len(registry.mcp_servers) == 1
    assert registry.get("a").agent.mcp_servers[0] is registry.get("b").agent.mcp_servers[0]


def test_factory() -> None:
    made = Recorder("made")
    registry = registry_of(spec(mcp_servers=(local(),)), mcp_factory=lambda _: made)
    assert registry.mcp_servers == (made,)


def test_transports() -> None:
    http = {"url": "https://example.test/mcp", "headers": {"a": "b"}, "timeout": 3}
    assert isinstance(build_mcp_server(local()), MCPServerStdio)
    assert isinstance(build_mcp_server(McpServerSpec("h", "streamable_http", http)), MCPServerStreamableHttp)
    server = build_mcp_server(McpServerSpec("s", "sse", {**http, "client_session_timeout_seconds": 7}))
    assert isinstance(server, MCPServerSse)
    assert server.name == "s"
    assert server.params == http
    assert server.client_session_timeout_seconds == 7


@pytest.mark.parametrize(
    ("server", "texts"),
    [
        (McpServerSpec("s", "carrier", {}), ("'s'", "'carrier'", "stdio, streamable_http, sse")),  # type: ignore[arg-type]
        (McpServerSpec("s", "stdio", {"args": []}), ("'s' has no 'command'",)),
        (McpServerSpec("s", "sse", {}), ("'s' has no 'url'",)),
        (McpServerSpec("s", "stdio", {"command": "x", "url": "y"}), ("'s'", "unknown parameter 'url'", "command")),
        (
            McpServerSpec("s", "sse", {"url": "https://x.test", "client_session_timeout_seconds": -1}),
            ("'helper'", "'s' cannot be built"),
        ),
    ],
)
def test_wrong_declarations(server: McpServerSpec, texts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        registry_of(spec(mcp_servers=(server,)))
    for text in texts:
        assert text in caught.value.public_message, caught.value.public_message


def test_one_name_for_two_servers() -> None:
    with pytest.raises(ConfigurationError, match="Agent 'b' declares the MCP server 'words' differently"):
        registry_of(spec("a", mcp_servers=(local(),)), spec("b", mcp_servers=(local(allowed_tools=("x",)),)))
    with pytest.raises(ConfigurationError, match="Agent 'a' lists the MCP server 'words' twice"):
        registry_of(spec("a", mcp_servers=(local(), local())))
