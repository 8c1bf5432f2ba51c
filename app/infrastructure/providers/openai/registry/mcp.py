"""MCP servers: built at start-up, connected when the application starts, cleaned up when it stops."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

from agents.mcp import (
    MCPServer,
    MCPServerManager,
    MCPServerSse,
    MCPServerSseParams,
    MCPServerStdio,
    MCPServerStdioParams,
    MCPServerStreamableHttp,
    MCPServerStreamableHttpParams,
    create_static_tool_filter,
)

from app.domain.errors import ConfigurationError
from app.domain.models.agents import McpServerSpec

McpFactory = Callable[[McpServerSpec], MCPServer]
"""Makes the SDK's server object; it must not connect yet."""

_PARAMS: Final[Mapping[str, type[Any]]] = {
    "stdio": MCPServerStdioParams,
    "streamable_http": MCPServerStreamableHttpParams,
    "sse": MCPServerSseParams,
}
_SERVER_DEFAULTS: Final[Mapping[str, Any]] = {
    # The SDK asks for the list of tools before every model call; that round trip is worth it only where tools change.
    "cache_tools_list": True,
    # One request, so one tool call. The SDK's own 5 s cut off ordinary tools (a search, a query).
    "client_session_timeout_seconds": 60.0,
    "max_retry_attempts": 0,
    "require_approval": None,
    "use_structured_content": False,
}
"""Options of the SDK's server classes that may stand among `params`, with the value they have otherwise."""


def build_mcp_server(spec: McpServerSpec) -> MCPServer:
    """Return the SDK's server object, not connected; `allowed_tools` becomes its tool filter.

    Besides the transport's own parameters, `params` may hold `cache_tools_list`, `client_session_timeout_seconds`
    (one request; 60), `max_retry_attempts`, `require_approval` and `use_structured_content` of the SDK's classes.

    Raises:
        ConfigurationError: an unknown transport or parameter, or a missing `command` or `url`.
    """
    if spec.transport not in _PARAMS:
        raise ConfigurationError(
            f"The MCP server '{spec.name}' has the transport '{spec.transport}'. Use one of: {', '.join(_PARAMS)}."
        )
    required = "command" if spec.transport == "stdio" else "url"
    known = set(_PARAMS[spec.transport].__annotations__)
    if unknown := sorted(set(spec.params) - known - set(_SERVER_DEFAULTS)):
        raise ConfigurationError(
            f"The MCP server '{spec.name}' has an unknown parameter '{unknown[0]}'. "
            f"Use one of: {', '.join(sorted(known | set(_SERVER_DEFAULTS)))}."
        )
    if not isinstance(spec.params.get(required), str):
        raise ConfigurationError(f"The MCP server '{spec.name}' has no '{required}'. Add it to its `params`.")
    params = {name: value for name, value in spec.params.items() if name in known}
    options: dict[str, Any] = {name: spec.params.get(name, value) for name, value in _SERVER_DEFAULTS.items()}
    if spec.allowed_tools is not None:
        options["tool_filter"] = create_static_tool_filter(allowed_tool_names=list(spec.allowed_tools))
    match spec.transport:
        case "stdio":
            return MCPServerStdio(params=cast("MCPServerStdioParams", params), name=spec.name, **options)
        case "streamable_http":
            return MCPServerStreamableHttp(
                params=cast("MCPServerStreamableHttpParams", params), name=spec.name, **options
            )
        case "sse":
            return MCPServerSse(params=cast("MCPServerSseParams", params), name=spec.name, **options)


class McpServers:
    """All MCP servers of the registered agents, each once."""

    def __init__(self, factory: McpFactory = build_mcp_server) -> None:
        """Take what makes a server from its declaration."""
        self._factory = factory
        self._declared: dict[str, tuple[McpServerSpec, MCPServer]] = {}
        self._servers: list[MCPServer] = []
        self._manager: MCPServerManager | None = None

    @property
    def servers(self) -> tuple[MCPServer, ...]:
        """The servers in the order they were met."""
        return tuple(self._servers)

    def declared(self, specs: Iterable[McpServerSpec], *, agent: str) -> list[MCPServer]:
        """Return the servers an agent declares; equal declarations of several agents share one server.

        Raises:
            ConfigurationError: a name that another agent uses for a different server, or a wrong parameter.
        """
        return [self._declare(spec, agent) for spec in specs]

    def _declare(self, spec: McpServerSpec, agent: str) -> MCPServer:
        if spec.name not in self._declared:
            try:
                server = self._factory(spec)
            except (TypeError, ValueError) as error:
                raise ConfigurationError(
                    f"Agent '{agent}': the MCP server '{spec.name}' cannot be built: {error}. Correct its `params`."
                ) from error
            self._declared[spec.name] = (spec, server)
            self.adopt([server])
        known, server = self._declared[spec.name]
        if known != spec:
            raise ConfigurationError(
                f"Agent '{agent}' declares the MCP server '{spec.name}' differently from another agent. "
                "Declare it once and use it in both, or give it another name."
            )
        return server

    def adopt(self, servers: Iterable[MCPServer]) -> None:
        """Take over the connection of servers that already exist, such as those of a native agent."""
        self._servers.extend(server for server in servers if server not in self._servers)

    async def connect(self, timeout_s: float) -> None:
        """Connect every server that is not connected yet, all at once; when one fails, none stays connected.

        A second call does nothing. Cancelling it disconnects what was connected.

        Raises:
            ConfigurationError: servers that cannot be reached within `timeout_s` seconds, by name.
        """
        # A native agent's server may have been connected by whoever made it, who then also cleans it up.
        servers = [server for server in self._servers if getattr(server, "session", None) is None]
        if self._manager is not None or not servers:
            return
        manager = MCPServerManager(
            servers,
            connect_timeout_seconds=timeout_s,
            suppress_cancelled_error=False,
            # A task a server: the transports must be closed by the task that opened them, whoever calls `aclose`.
            connect_in_parallel=True,
        )
        await manager.connect_all()
        if failed := manager.failed_servers:
            reasons = [f"'{server.name}' ({_reason(manager.errors[server])})" for server in failed]
            await manager.cleanup_all()
            raise ConfigurationError(
                f"No connection to the MCP server {', '.join(reasons)}. Correct its `params`, or remove it."
            ) from manager.errors.get(failed[0])
        self._manager = manager

    async def aclose(self, timeout_s: float) -> None:
        """Disconnect what `connect` has connected, at most `timeout_s` seconds a server; never raises for a server."""
        if self._manager is None:
            return
        manager, self._manager = self._manager, None
        manager.cleanup_timeout_seconds = timeout_s
        await manager.cleanup_all()


def _reason(error: BaseException) -> str:
    text = (str(error).splitlines() or [""])[0].strip()
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
