"""A model without a model: deterministic and offline, it shows what a run looks like before there is a key.

It calls tools, hands off, makes tables, remembers what was said, and streams word by word. What it does depends on the
last user message and the tools it is offered, nothing else.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, cast

from agents import AgentOutputSchemaBase, Handoff, Model, ModelResponse, ModelSettings, ModelTracing, Tool, Usage
from agents.items import TResponseInputItem, TResponseOutputItem, TResponseStreamEvent
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionCallArgumentsDeltaEvent,
    ResponseFunctionToolCall,
    ResponseOutputItemDoneEvent,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseTextDeltaEvent,
    ResponseUsage,
)
from openai.types.responses.response_prompt_param import ResponsePromptParam
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails

DEMO_NOTICE = "This is the demo model: set OPENAI_API_KEY to talk to a real one."

_WEATHER = re.compile(
    r"weather (?:is it |be )?(?:like )?(?:in|at|for) ([\w .'-]+?)\s*(?:[?!.,]|today|now|$)", re.IGNORECASE
)
_POSTCARD = re.compile(r"\bpostcard\b.*?\bfrom ([\w .'-]+?)\s*(?:[?!.,]|$)", re.IGNORECASE)
_TABLE = "| city | sky | °C |\n|---|---|---|\n| Paris | cloudy | 14 |\n| Lima | sunny | 22 |\n| Oslo | snow | -3 |\n"


class DemoModel(Model):
    """The demo model; see the module."""

    def __init__(self, *, delay_s: float) -> None:
        """`delay_s`: pause between two words of a streamed answer."""
        self.model = "demo"
        self._delay_s = delay_s

    async def get_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],  # noqa: A002 - the SDK's name
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff[Any, Any]],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None,
        conversation_id: str | None,
        prompt: ResponsePromptParam | None,
    ) -> ModelResponse:
        """Answer at once."""
        response = _response(input, tools, handoffs, output_schema)
        used = cast("ResponseUsage", response.usage)
        usage = Usage(
            requests=1,
            input_tokens=used.input_tokens,
            output_tokens=used.output_tokens,
            total_tokens=used.total_tokens,
        )
        return ModelResponse(output=response.output, usage=usage, response_id=response.id)

    async def stream_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],  # noqa: A002 - the SDK's name
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff[Any, Any]],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None,
        conversation_id: str | None,
        prompt: ResponsePromptParam | None,
    ) -> AsyncIterator[TResponseStreamEvent]:
        """Answer word by word."""
        response = _response(input, tools, handoffs, output_schema)
        sequence = 0
        for index, item in enumerate(response.output):
            for part in _parts(item):
                await asyncio.sleep(self._delay_s)
                yield _delta(item, part, index, sequence)
                sequence += 1
            yield ResponseOutputItemDoneEvent(
                item=item, output_index=index, sequence_number=sequence, type="response.output_item.done"
            )
            sequence += 1
        yield ResponseCompletedEvent(response=response, sequence_number=sequence, type="response.completed")


def _parts(item: TResponseOutputItem) -> list[str]:
    if isinstance(item, ResponseFunctionToolCall):
        return [item.arguments]
    return re.findall(r"\S+\s*|\s+", _text(item))


def _text(item: TResponseOutputItem) -> str:
    parts = item.content if isinstance(item, ResponseOutputMessage) else []
    return "".join(part.text for part in parts if isinstance(part, ResponseOutputText))


def _delta(item: TResponseOutputItem, part: str, index: int, sequence: int) -> TResponseStreamEvent:
    if isinstance(item, ResponseFunctionToolCall):
        return ResponseFunctionCallArgumentsDeltaEvent(
            delta=part,
            item_id=item.id or "",
            output_index=index,
            sequence_number=sequence,
            type="response.function_call_arguments.delta",
        )
    return ResponseTextDeltaEvent(
        content_index=0,
        delta=part,
        item_id=cast("ResponseOutputMessage", item).id,
        logprobs=[],
        output_index=index,
        sequence_number=sequence,
        type="response.output_text.delta",
    )


def _response(
    request: str | list[TResponseInputItem],
    tools: Sequence[Tool],
    handoffs: Sequence[Handoff[Any, Any]],
    output_schema: AgentOutputSchemaBase | None,
) -> Response:
    items: list[dict[str, Any]] = (
        [{"role": "user", "content": request}] if isinstance(request, str) else [dict(item) for item in request]
    )
    digest = hashlib.blake2b(json.dumps(items, default=str).encode(), digest_size=12).hexdigest()
    output = _answer(items, {tool.name for tool in tools}, handoffs, output_schema, digest)
    input_tokens = len(json.dumps(items, default=str)) // 4
    output_tokens = sum(len("".join(_parts(item))) for item in output) // 4 + 1
    return Response(
        id=f"resp_demo_{digest}",
        created_at=0,
        model="demo",
        object="response",
        output=output,
        parallel_tool_calls=True,
        tool_choice="auto",
        tools=[],
        usage=ResponseUsage(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            total_tokens=input_tokens + output_tokens,
            input_tokens_details=InputTokensDetails(cached_tokens=0, cache_write_tokens=0),
            output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
        ),
    )


def _answer(
    items: list[dict[str, Any]],
    tools: set[str],
    handoffs: Sequence[Handoff[Any, Any]],
    output_schema: AgentOutputSchemaBase | None,
    digest: str,
) -> list[TResponseOutputItem]:
    """Decide what to say; the rules, in order."""
    asked = [_content(item) for item in items if item.get("role") == "user"]
    question = asked[-1] if asked else ""
    if output_schema is not None and not output_schema.is_plain_text():
        return [_message(json.dumps(_sample(output_schema.json_schema())), digest)]
    if items and items[-1].get("type") == "function_call_output":
        return [_message(_report(items, asked), digest)]
    call = _tool_for(question, tools)
    if call is not None:
        return [_function_call(call[0], call[1], digest)]
    for handoff in handoffs:
        if re.search(r"\bpo(em|et|etry)\b", question, re.IGNORECASE) and "poet" in handoff.agent_name.lower():
            return [_function_call(handoff.tool_name, {}, digest)]
    return [_message(_small_talk(question, asked), digest)]


def _tool_for(question: str, tools: set[str]) -> tuple[str, dict[str, Any]] | None:
    place = _WEATHER.search(question)
    if place and "get_weather" in tools:
        return "get_weather", {"city": place.group(1).strip()}
    if re.search(r"\b(time|date|day) is it\b|\bwhat time\b", question, re.IGNORECASE) and "get_current_time" in tools:
        return "get_current_time", {"timezone": "UTC"}
    sender = _POSTCARD.search(question)
    if sender and "send_postcard" in tools:
        return "send_postcard", {"city": sender.group(1).strip()}
    wanted = re.search(r"\b(?:search|find)\b.* for ['\"]?([\w ]+)", question, re.IGNORECASE)
    if wanted and "search_conversations" in tools:
        return "search_conversations", {"query": wanted.group(1).strip(), "limit": 5}
    return None


def _report(items: list[dict[str, Any]], asked: list[str]) -> str:
    outputs: list[str] = []
    for item in reversed(items):
        if item.get("type") != "function_call_output":
            break
        outputs.insert(0, str(item.get("output", "")))
    said = " ".join(outputs)
    if said.startswith('{"assistant"'):  # the SDK's note that a handoff happened
        return f"Roses are red, logs are kept, / your run survives while others slept. (You asked: {asked[-1]})"
    return f"{said} (Looked up with a tool, to answer: {asked[-1] if asked else ''})"


def _small_talk(question: str, asked: list[str]) -> str:
    if re.search(r"\btable\b", question, re.IGNORECASE):
        return f"Here is a table.\n\n{_TABLE}"
    if re.search(r"\b(remember|before|earlier|first|previous(ly)?)\b", question, re.IGNORECASE) and len(asked) > 1:
        return "Earlier you said: " + " / ".join(asked[:-1][-5:])
    if re.search(r"\bpo(em|et|etry)\b", question, re.IGNORECASE):
        return "Roses are red, logs are kept, / your run survives while others slept."
    return f"You said: {question} (message {len(asked)} of this conversation). {DEMO_NOTICE}"


def _content(item: dict[str, Any]) -> str:
    content = item.get("content", "")
    if isinstance(content, str):
        return content
    parts = cast("list[dict[str, Any]]", content)
    return " ".join(str(part.get("text", "")) for part in parts if part.get("type") in {"input_text", "text"})


def _message(text: str, digest: str) -> ResponseOutputMessage:
    return ResponseOutputMessage(
        id=f"msg_demo_{digest}",
        content=[ResponseOutputText(annotations=[], text=text, type="output_text")],
        role="assistant",
        status="completed",
        type="message",
    )


def _function_call(name: str, arguments: dict[str, Any], digest: str) -> ResponseFunctionToolCall:
    return ResponseFunctionToolCall(
        id=f"fc_demo_{digest}",
        call_id=f"call_demo_{digest}",
        name=name,
        arguments=json.dumps(arguments),
        status="completed",
        type="function_call",
    )


_FORMATS = {"date-time": "2026-01-01T00:00:00Z", "date": "2026-01-01", "time": "12:00:00", "uuid": "0" * 32}


def _sample(schema: dict[str, Any], definitions: dict[str, Any] | None = None, inside: tuple[str, ...] = ()) -> Any:
    """Return the plainest value that follows a schema; one that refers to itself ends at its second turn.

    Raises:
        LookupError: nothing follows it that has an end.
    """
    known: dict[str, Any] = schema.get("$defs", {}) if definitions is None else definitions
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[-1]
        if name in inside:
            raise LookupError(name)
        return _sample(known[name], known, (*inside, name))
    for option in schema.get("anyOf", ()):
        with suppress(LookupError):
            return _sample(option, known, inside)
    if schema.get("type") == "object":
        return {name: _sample(value, known, inside) for name, value in schema.get("properties", {}).items()}
    if schema.get("type") == "array":
        items: list[Any] = []
        with suppress(LookupError):
            items.append(_sample(schema.get("items", {}), known, inside))
        return items
    return _plain_sample(schema)


def _plain_sample(schema: dict[str, Any]) -> Any:
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    number = schema.get("minimum", 1)
    text = _FORMATS.get(str(schema.get("format")), "demo")
    return {"integer": number, "number": number, "boolean": True, "null": None}.get(str(schema.get("type")), text)
