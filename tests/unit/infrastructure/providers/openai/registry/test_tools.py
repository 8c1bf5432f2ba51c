"""Function tools and hosted tools of declared agents."""

from functools import partial
from typing import Any, Literal

import pytest
from agents import (
    CodeInterpreterTool,
    FileSearchTool,
    FunctionTool,
    HostedMCPTool,
    ImageGenerationTool,
    RunContextWrapper,
    Runner,
    WebSearchTool,
    function_tool,
)
from agents.testing import assistant_message, function_call
from pydantic import BaseModel

from app.domain.errors import ConfigurationError
from app.domain.models.agents import HostedToolSpec
from app.infrastructure.providers.openai.registry.hosted import hosted_tool
from app.infrastructure.providers.openai.registry.tools import build_function_tool
from tests.unit.infrastructure.providers.openai.registry.building import Scripts, registry_of, spec


async def convert(amount: float, to: Literal["EUR", "USD"] = "EUR") -> str:
    """Convert an amount.

    Args:
        amount: How much.
        to: The currency.
    """
    return f"{amount} {to}"


def plain(context: RunContextWrapper[Any], text: str) -> str:
    """Say it plainly."""
    return f"{context.context}:{text}"


async def undocumented(a: int) -> int:
    return a


async def untyped(a, b: int) -> int:  # type: ignore[no-untyped-def]
    """Untyped."""
    return a + b


async def loose(values: dict[str, Any]) -> str:
    """Take anything."""
    return str(values)


async def unresolved(a: "Nowhere") -> str:  # type: ignore[name-defined]  # noqa: F821
    """Name a type that is not there."""
    return str(a)


async def misplaced(a: int, context: RunContextWrapper[Any]) -> str:
    """Take the context second."""
    return f"{a}{context}"


def test_function_tool_has_a_strict_schema() -> None:
    tool = build_function_tool(convert, "money", "Test")
    assert (tool.name, tool.description, tool.strict_json_schema) == ("money", "Convert an amount.", True)
    schema = tool.params_json_schema
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["amount", "to"]
    assert schema["properties"]["amount"]["description"] == "How much."


async def test_the_runner_calls_tools_by_registered_name() -> None:
    registry = registry_of(spec(tools=("money", plain), model="m"), tools={"money": convert})
    models = Scripts(
        m=[
            [
                function_call("money", {"amount": 2, "to": "USD"}, call_id="c1"),
                function_call("plain", {"text": "hi"}, call_id="c2"),
            ],
            [assistant_message("done")],
        ]
    )
    await Runner.run(registry.get("helper").agent, "x", context="ctx", run_config=models.config())
    assert [item["output"] for item in models.seen("m", 1)[-2:]] == ["2.0 USD", "ctx:hi"]


def test_agents_share_one_tool_object_a_name() -> None:
    registry = registry_of(spec("a", tools=("money",)), spec("b", tools=("money",)), tools={"money": convert})
    assert registry.get("a").agent.tools[0] is registry.get("b").agent.tools[0]


@pytest.mark.parametrize(
    ("tool", "texts"),
    [
        ("nothing", ("'helper' names the tool 'nothing'", "Known tools: money", "optional_tools")),
        (undocumented, ("'helper'", "'undocumented' has no docstring")),
        (untyped, ("'helper'", "'a' of the tool 'untyped' has no type")),
        (loose, ("'helper'", "no strict schema can be made for the tool 'loose'")),
        (unresolved, ("'helper'", "'unresolved'", "Nowhere")),
        (misplaced, ("'helper'", "'misplaced'", "non-first position")),
        (lambda: 1, ("'helper'", "'<lambda>' cannot be a tool's name")),
        (partial(convert, 1), ("'helper'", "'partial'")),
        (function_tool(convert), ("'helper'", "'FunctionTool'", "undecorated")),
    ],
)
def test_failures(tool: Any, texts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        registry_of(spec(tools=(tool,)), tools={"money": convert})
    for text in texts:
        assert text in caught.value.public_message, caught.value.public_message


def test_a_tool_that_no_agent_names_is_not_built() -> None:
    registry = registry_of(spec(), tools={"bad": undocumented})
    assert registry.tool_overview() == ()
    with pytest.raises(ConfigurationError, match="'bad' has no docstring"):
        registry_of(spec(tools=("bad",)), tools={"bad": undocumented})


def test_hosted_tools() -> None:
    options: dict[str, Any] = {"user_location": {"type": "approximate", "city": "Bonn"}, "search_context_size": "low"}
    web = hosted_tool(HostedToolSpec("web_search", options), agent="a")
    assert isinstance(web, WebSearchTool)
    assert (web.user_location, web.search_context_size) == (options["user_location"], "low")
    files = hosted_tool(HostedToolSpec("file_search", {"vector_store_ids": ["vs"], "max_num_results": 5}), agent="a")
    assert isinstance(files, FileSearchTool) and files.vector_store_ids == ["vs"] and files.max_num_results == 5
    code = hosted_tool(HostedToolSpec("code_interpreter"), agent="a")
    assert isinstance(code, CodeInterpreterTool)
    assert code.tool_config == {"type": "code_interpreter", "container": {"type": "auto"}}
    bound = hosted_tool(HostedToolSpec("code_interpreter", {"container": "cntr_1"}), agent="a")
    assert isinstance(bound, CodeInterpreterTool) and bound.tool_config["container"] == "cntr_1"
    image = hosted_tool(HostedToolSpec("image_generation", {"size": "1024x1024", "quality": "xhigh"}), agent="a")
    assert isinstance(image, ImageGenerationTool)
    assert image.tool_config == {"type": "image_generation", "size": "1024x1024", "quality": "xhigh"}


def test_hosted_mcp() -> None:
    def approve(_: Any) -> Any:
        return {"approve": True}

    options = {
        "server_label": "docs",
        "server_url": "https://example.test/mcp",
        "allowed_tools": ["search"],
        "require_approval": {"never": {"tool_names": ["search"]}},
    }
    tool = hosted_tool(HostedToolSpec("hosted_mcp", {**options, "on_approval_request": approve}), agent="a")
    assert isinstance(tool, HostedMCPTool)
    assert tool.tool_config == {"type": "mcp", **options}
    assert tool.on_approval_request is approve


@pytest.mark.parametrize(
    ("kind", "options", "option", "reason"),
    [
        ("web_search", {"contextsize": "low"}, "contextsize", "search_context_size"),
        ("web_search", {"search_context_size": "huge"}, "search_context_size", "'low', 'medium' or 'high'"),
        ("web_search", {"user_location": {"type": "approximate", "cty": "x"}}, "user_location.cty", "no such option"),
        ("web_search", {"user_location": {"type": "approximate", "city": 1}}, "user_location", "at city"),
        ("file_search", {}, "vector_store_ids", "required"),
        ("file_search", {"vector_store_ids": "vs"}, "vector_store_ids", "valid list"),
        ("file_search", {"vector_store_ids": ["vs"], "max_num_results": 51}, "max_num_results", "between 1 and 50"),
        ("code_interpreter", {"container": {"type": "auto", "memory": "4g"}}, "container.memory", "no such option"),
        ("code_interpreter", {"container": {"type": "auto", "memory_limit": "9g"}}, "container", "'1g'"),
        ("image_generation", {"size": "big"}, "size", "1024x1024"),
        ("image_generation", {"quality": "best"}, "quality", "'low'"),
        ("image_generation", {"output_compression": 101}, "output_compression", "between 0 and 100"),
        ("image_generation", {"partial_images": 4}, "partial_images", "between 0 and 3"),
        ("hosted_mcp", {"server_url": "https://x.test"}, "server_label", "required"),
        ("hosted_mcp", {"server_label": "x"}, "server_url", "connector_id"),
        (
            "hosted_mcp",
            {"server_label": "x", "server_url": "u", "require_approval": "maybe"},
            "require_approval",
            "always",
        ),
        (
            "hosted_mcp",
            {"server_label": "x", "server_url": "u", "on_approval_request": 1},
            "on_approval_request",
            "function",
        ),
    ],
)
def test_wrong_option_names_agent_tool_and_option(kind: Any, options: dict[str, Any], option: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        registry_of(spec("shop", tools=(HostedToolSpec(kind, options),)))
    message = caught.value.public_message
    assert f"Agent 'shop': the option '{option}' of its hosted tool '{kind}'" in message, message
    assert reason in message, message


def test_unknown_hosted_tool() -> None:
    with pytest.raises(ConfigurationError, match=r"no hosted tool 'teleport'\. Use one of: web_search"):
        registry_of(spec(tools=(HostedToolSpec("teleport"),)))  # type: ignore[arg-type]


def test_two_hosted_mcp_servers_are_two_tools() -> None:
    def server(label: str) -> HostedToolSpec:
        return HostedToolSpec("hosted_mcp", {"server_label": label, "server_url": "https://x.test"})

    assert len(registry_of(spec(tools=(server("a"), server("b")))).get("helper").agent.tools) == 2


def test_a_bound_method_is_a_tool() -> None:
    class Shop:
        async def price(self, item: str) -> str:
            """Tell the price."""
            return item

    tool = registry_of(spec(tools=(Shop().price,))).get("helper").agent.tools[0]
    assert isinstance(tool, FunctionTool) and list(tool.params_json_schema["properties"]) == ["item"]


def test_defaults_are_not_in_a_strict_schema() -> None:
    class Place(BaseModel):
        default: str = "Oslo"
        near: list[str] = ["Bergen"]

    async def travel(place: Place, default: int | None = 3, to: Literal["a", "b"] = "a") -> str:
        """Travel."""
        return f"{place} {default} {to}"

    schema = build_function_tool(travel, "travel", "Test").params_json_schema
    assert set(schema["required"]) == set(schema["properties"]) == {"place", "default", "to"}
    assert set(schema["$defs"]["Place"]["properties"]) == {"default", "near"}
    values = [*schema["properties"].values(), *schema["$defs"]["Place"]["properties"].values()]
    assert not any("default" in value for value in values)
