"""A real MCP server over stdio, run as a script: two tools that need nothing."""

from mcp.server.mcpserver import MCPServer

server = MCPServer("fake")


@server.tool()
def shout(text: str) -> str:
    """Return the text in capitals."""
    return text.upper()


@server.tool()
def whisper(text: str) -> str:
    """Return the text in small letters."""
    return text.lower()


if __name__ == "__main__":
    server.run(transport="stdio")
