"""Agents whose tools need a person's approval; commands import them from the working directory."""

from pathlib import Path
from typing import Any

from agents import Agent, Model, ModelResponse, Usage, function_tool
from agents.testing import assistant_message, function_call

CALLED = Path("called.txt")


@function_tool(needs_approval=True)
def get_weather(city: str) -> str:
    """The weather of a city."""
    with CALLED.open("a") as file:
        file.write(f"{city}\n")
    return f"{city}: sunny"


class AsksForTwo(Model):
    """Calls the tool twice at once, and is done when it has the outputs."""

    async def get_response(self, system_instructions: Any, input: Any, *rest: Any, **more: Any) -> ModelResponse:  # noqa: A002
        outputs = [item["output"] for item in input if item.get("type") == "function_call_output"]
        calls = [function_call("get_weather", f'{{"city": "{city}"}}', call_id=city) for city in ("Lima", "Oslo")]
        output = [assistant_message(" / ".join(outputs))] if outputs else calls
        return ModelResponse(output=output, usage=Usage(), response_id=None)

    def stream_response(self, *given: Any, **more: Any) -> Any:
        raise NotImplementedError


agents = [Agent(name="Careful", tools=[get_weather]), Agent(name="Pair", model=AsksForTwo(), tools=[get_weather])]
