"""What cannot be done is refused by name, and what can reaches the model's endpoint under its own name."""

from collections.abc import Callable
from typing import Any

import pytest
from agents import Agent

from tests.api.openai.chat_clients import WEATHER, client_of, hello
from tests.api.serving import Served, says, scripted
from tests.fakes.openai import FakeOpenAI

Serve = Callable[..., Any]

MISSING, TYPE, VALUE = "missing_required_parameter", "invalid_type", "invalid_value"
UNSUPPORTED, UNKNOWN = "unsupported_parameter", "unknown_parameter"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION = {"name": "weather", "arguments": "{}"}
CALL = {"id": "c1", "type": "function", "function": FUNCTION}
USER = {"role": "user", "content": "hi"}


def said(**message: Any) -> dict[str, Any]:
    """A request whose only message is this one."""
    return {"messages": [{**USER, **message}]}


def part(**content: Any) -> dict[str, Any]:
    """A request whose only message has this part."""
    return said(content=[content])


def answer(*calls: Any, **message: Any) -> dict[str, Any]:
    """A request with an answer of the model that has these calls, and one output."""
    told = {"role": "assistant", "tool_calls": list(calls), **message}
    return {"messages": [USER, told, {"role": "tool", "tool_call_id": "c1", "content": "3"}]}


def form(**schema: Any) -> dict[str, Any]:
    """A request for an answer of a form."""
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, **schema}}}


def function(**fields: Any) -> dict[str, Any]:
    """A request with one tool."""
    return {"tools": [{"type": "function", "function": {**WEATHER["function"], **fields}}]}


MESSAGES: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": None}, "messages", MISSING),
    ({"messages": "hi"}, "messages", TYPE),
    ({"messages": []}, "messages", VALUE),
    ({"messages": ["hi"]}, "messages[0]", TYPE),
    ({"messages": [{"content": "hi"}]}, "messages[0].role", MISSING),
    (said(role="critic"), "messages[0].role", VALUE),
    (said(role=7), "messages[0].role", VALUE),
    (said(role=["user"]), "messages[0].role", VALUE),
    (said(role="function", name="f"), "messages[0].role", UNSUPPORTED),
    (said(name="Ann"), "messages[0].name", UNSUPPORTED),
    (said(mood="good"), "messages[0].mood", UNKNOWN),
    (said(tool_calls=[CALL]), "messages[0].tool_calls", UNKNOWN),
    (said(content=None), "messages[0].content", MISSING),
    (said(content=7), "messages[0].content", TYPE),
    (said(content=[]), "messages[0].content", VALUE),
    (said(content=["hi"]), "messages[0].content[0]", TYPE),
    (part(text="hi"), "messages[0].content[0].type", MISSING),
    (part(type="input_text", text="hi"), "messages[0].content[0].type", VALUE),
    (part(type=["text"], text="hi"), "messages[0].content[0].type", VALUE),
    (part(type="refusal", refusal="no"), "messages[0].content[0].type", VALUE),
    (part(type="text"), "messages[0].content[0].text", MISSING),
    (part(type="text", text=7), "messages[0].content[0].text", TYPE),
    (part(type="text", text="a", mood="b"), "messages[0].content[0].mood", UNKNOWN),
    (part(type="image_url"), "messages[0].content[0].image_url", MISSING),
    (part(type="image_url", image_url="https://x"), "messages[0].content[0].image_url", TYPE),
    (part(type="image_url", image_url={}), "messages[0].content[0].image_url.url", MISSING),
    (part(type="image_url", image_url={"url": "u", "detail": "x"}), "messages[0].content[0].image_url.detail", VALUE),
    (part(type="image_url", image_url={"url": "u", "detail": [1]}), "messages[0].content[0].image_url.detail", VALUE),
    (part(type="file", file={"file_id": "file-1"}), "messages[0].content[0].file.file_id", UNSUPPORTED),
    (part(type="file", file={"filename": "a"}), "messages[0].content[0].file.file_data", MISSING),
    (
        part(type="input_audio", input_audio={"data": "AA==", "format": "wav"}),
        "messages[0].content[0].type",
        UNSUPPORTED,
    ),
    (
        part(type="text", text="a", prompt_cache_breakpoint={"mode": "explicit"}),
        "messages[0].content[0].prompt_cache_breakpoint",
        UNSUPPORTED,
    ),
    (
        said(role="system", content=[{"type": "image_url", "image_url": {"url": "u"}}]),
        "messages[0].content[0].type",
        VALUE,
    ),
    (said(role="assistant", content=None), "messages[0].content", MISSING),
    (said(role="assistant", refusal=7), "messages[0].refusal", TYPE),
    (said(role="assistant", audio={"id": "a"}), "messages[0].audio", UNSUPPORTED),
    (said(role="assistant", function_call=FUNCTION), "messages[0].function_call", UNSUPPORTED),
    (said(role="assistant", annotations="x"), "messages[0].annotations", TYPE),
    (said(role="tool"), "messages[0].tool_call_id", MISSING),
    (said(role="tool", tool_call_id="c1"), "messages[0].tool_call_id", VALUE),
    (answer("c1"), "messages[1].tool_calls[0]", TYPE),
    (answer(CALL, tool_calls={}), "messages[1].tool_calls", TYPE),
    (answer({"id": "c1"}), "messages[1].tool_calls[0].type", MISSING),
    (answer({"id": "c1", "type": "custom"}), "messages[1].tool_calls[0].type", UNSUPPORTED),
    (answer({"id": "c1", "type": "function"}), "messages[1].tool_calls[0].function", MISSING),
    (answer({**CALL, "function": "f"}), "messages[1].tool_calls[0].function", TYPE),
    (answer({**CALL, "id": 7}), "messages[1].tool_calls[0].id", TYPE),
    (answer({**CALL, "function": {"name": "f"}}), "messages[1].tool_calls[0].function.arguments", MISSING),
    (answer(CALL, CALL), "messages[1].tool_calls", VALUE),
    (answer(CALL, {**CALL, "id": "c2"}), "messages[1].tool_calls", VALUE),
    ({"messages": [USER, {"role": "assistant", "tool_calls": [CALL]}, USER]}, "messages[1].tool_calls", VALUE),
    ({"store": True, "messages": [{"role": "system", "content": "x"}]}, "messages", VALUE),
    (
        {"metadata": {"conversation_id": "conv_1"}, "messages": [USER, {"role": "assistant", "content": "x"}]},
        "messages",
        VALUE,
    ),
]

PARAMETERS: list[tuple[dict[str, Any], str, str]] = [
    ({"model": None}, "model", MISSING),
    ({"model": 7}, "model", TYPE),
    ({"mood": "good"}, "mood", UNKNOWN),
    ({"extra_body": {"a": 1}}, "extra_body", UNKNOWN),
    ({"audio": {"voice": "x", "format": "wav"}}, "audio", UNSUPPORTED),
    ({"modalities": ["text", "audio"]}, "modalities", UNSUPPORTED),
    ({"modalities": "text"}, "modalities", TYPE),
    ({"function_call": "auto"}, "function_call", UNSUPPORTED),
    ({"functions": [FUNCTION]}, "functions", UNSUPPORTED),
    ({"moderation": {"model": "x"}}, "moderation", UNSUPPORTED),
    ({"prediction": {"type": "content", "content": "x"}}, "prediction", UNSUPPORTED),
    ({"web_search_options": {}}, "web_search_options", UNSUPPORTED),
    ({"logprobs": True}, "logprobs", UNSUPPORTED),
    ({"top_logprobs": 2}, "top_logprobs", UNSUPPORTED),
    ({"frequency_penalty": 1}, "frequency_penalty", UNSUPPORTED),
    ({"presence_penalty": 1.5}, "presence_penalty", UNSUPPORTED),
    ({"presence_penalty": 3}, "presence_penalty", VALUE),
    ({"logit_bias": {"1": 2}}, "logit_bias", UNSUPPORTED),
    ({"logit_bias": {"1": "2"}}, "logit_bias.1", TYPE),
    ({"seed": 7}, "seed", UNSUPPORTED),
    ({"seed": 0}, "seed", UNSUPPORTED),
    ({"seed": 2**70}, "seed", VALUE),
    ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens", "mutually_exclusive_parameters"),
    ({"max_completion_tokens": 0}, "max_completion_tokens", VALUE),
    ({"max_tokens": "5"}, "max_tokens", TYPE),
    ({"n": 0}, "n", VALUE),
    ({"n": 9}, "n", VALUE),
    ({"n": 2, "store": True}, "n", VALUE),
    ({"n": True}, "n", TYPE),
    ({"store": False, "metadata": {"conversation_id": "conv_1"}}, "store", VALUE),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls", TYPE),
    ({"reasoning_effort": "much"}, "reasoning_effort", VALUE),
    ({"verbosity": "loud"}, "verbosity", VALUE),
    ({"service_tier": "best"}, "service_tier", VALUE),
    ({"prompt_cache_options": {"mode": "x"}}, "prompt_cache_options.mode", VALUE),
    ({"stop": 7}, "stop", TYPE),
    ({"stop": []}, "stop", VALUE),
    ({"stop": ["a"] * 5}, "stop", VALUE),
    ({"stop": ["a", 7]}, "stop[1]", TYPE),
    ({"stop": ""}, "stop", VALUE),
    ({"stream": "yes"}, "stream", TYPE),
    ({"stream_options": {"include_usage": True}}, "stream_options", VALUE),
    ({"stream": True, "stream_options": {"mood": 1}}, "stream_options.mood", UNKNOWN),
    (
        {"stream": True, "stream_options": {"include_obfuscation": True}},
        "stream_options.include_obfuscation",
        UNSUPPORTED,
    ),
    ({"temperature": 3}, "temperature", VALUE),
    ({"temperature": "hot"}, "temperature", TYPE),
    ({"top_p": -1}, "top_p", VALUE),
    ({"user": 7}, "user", TYPE),
    ({"metadata": {"a": 1}}, "metadata.a", TYPE),
    ({"metadata": {"a": "x" * 513}}, "metadata.a", VALUE),
    ({"metadata": {"a" * 65: "x"}}, f"metadata.{'a' * 64}", VALUE),
    ({"metadata": {str(number): "x" for number in range(17)}}, "metadata", VALUE),
    ({"metadata": {"a": [[[[[]]]] * 3]}}, "metadata.a", TYPE),
    ({"response_format": "text"}, "response_format", TYPE),
    ({"response_format": {}}, "response_format.type", MISSING),
    ({"response_format": {"type": "xml"}}, "response_format.type", VALUE),
    ({"response_format": {"type": ["text"]}}, "response_format.type", VALUE),
    ({"response_format": {"type": "text", "schema": {}}}, "response_format.schema", UNKNOWN),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", MISSING),
    ({"response_format": {"type": "json_schema", "json_schema": 7}}, "response_format.json_schema", TYPE),
    (form(name="no name"), "response_format.json_schema.name", VALUE),
    (form(strict="yes"), "response_format.json_schema.strict", TYPE),
    (form(schema=None), "response_format.json_schema.schema", MISSING),
    (form(schema=[]), "response_format.json_schema.schema", TYPE),
    (form(schema={"type": "thing"}), "response_format.json_schema.schema", VALUE),
    (form(schema={"$ref": "http://localhost/"}), "response_format.json_schema.schema", VALUE),
    (form(mood=1), "response_format.json_schema.mood", UNKNOWN),
    ({"tools": {}}, "tools", TYPE),
    ({"tools": ["weather"]}, "tools[0]", TYPE),
    ({"tools": [{}]}, "tools[0].type", MISSING),
    ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type", UNSUPPORTED),
    ({"tools": [{"type": "function"}]}, "tools[0].function", MISSING),
    ({"tools": [{"type": "function", "function": "f"}]}, "tools[0].function", TYPE),
    ({"tools": [{"type": "function", "name": "f"}]}, "tools[0].name", UNKNOWN),
    (function(name=None), "tools[0].function.name", MISSING),
    (function(name="no name"), "tools[0].function.name", VALUE),
    (function(mood=1), "tools[0].function.mood", UNKNOWN),
    (function(description=7), "tools[0].function.description", VALUE),
    (function(parameters="x"), "tools[0].function.parameters", VALUE),
    (function(strict="yes"), "tools[0].function.strict", VALUE),
    ({"tools": [WEATHER, WEATHER]}, "tools[1].function.name", VALUE),
    ({"tool_choice": "some"}, "tool_choice", VALUE),
    ({"tool_choice": 7}, "tool_choice", TYPE),
    ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.type", UNSUPPORTED),
    ({"tool_choice": {"type": "function"}}, "tool_choice.function", MISSING),
    ({"tool_choice": {"type": "function", "function": "f"}}, "tool_choice.function", TYPE),
    (
        {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
        "tool_choice.function.name",
        VALUE,
    ),
    ({"tool_choice": {"type": "function", "function": {"name": ["x"]}}}, "tool_choice.function.name", VALUE),
]


async def test_what_is_wrong_is_named(serve: Serve) -> None:
    served = await serve(scripted())
    for body, param, code in [*MESSAGES, *PARAMETERS]:
        reply = await served.http.post("/v1/chat/completions", json=hello(**body))
        assert reply.status_code == 400, (body, reply.text)
        error = reply.json()["error"]
        assert (error["param"], error["code"]) == (param, code), (body, error)
        assert error["type"] == "invalid_request_error"
    assert served.rows("SELECT id FROM agent_conversations") == []


async def test_bodies_that_are_no_request(serve: Serve) -> None:
    served = await serve(scripted())
    deep = '{"model":"helper","messages":[{"role":"user","content":"a"}],"metadata":' + '{"a":' * 150 + "1" + "}" * 151
    for body, code in [("{", "invalid_json"), ("[]", "invalid_body"), ("NaN", "invalid_json"), (deep, VALUE)]:
        headers = {"content-type": "application/json"}
        reply = await served.http.post("/v1/chat/completions", content=body, headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, code)
    reply = await served.http.delete("/v1/chat/completions")
    assert reply.status_code == 405


async def test_a_header_that_names_another_conversation(serve: Serve) -> None:
    served = await serve(scripted())
    body = hello(metadata={"conversation_id": "conv_1"})
    reply = await served.http.post("/v1/chat/completions", json=body, headers={"X-Conversation-Id": "conv_2"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "metadata.conversation_id")


async def test_input_that_is_too_large(serve: Serve) -> None:
    served = await serve(scripted(), runs={"max_input_bytes": 1_000})
    for changes, param in [
        ({"messages": [{"role": "user", "content": "x" * 1_000}]}, "messages"),
        (function(description="x" * 1_000), "tools"),
    ]:
        reply = await served.http.post("/v1/chat/completions", json=hello(**changes))
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


async def test_values_that_say_nothing_are_taken(serve: Serve) -> None:
    nothing: dict[str, Any] = {
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": None,
        "logprobs": False,
        "top_logprobs": 0,
        "modalities": ["text"],
        "n": 1,
        "response_format": {"type": "text"},
        "store": False,
        "functions": None,
        "stop": None,
        "tools": [],
        "metadata": {},
    }
    served = await serve(scripted(says("Hi.")))
    completion = await client_of(served).chat.completions.create(**hello(**nothing))
    assert completion.choices[0].message.content == "Hi."


SETTINGS: dict[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.9,
    "parallel_tool_calls": False,
    "verbosity": "low",
    "prompt_cache_key": "k",
    "prompt_cache_retention": "24h",
    "safety_identifier": "s",
    "service_tier": "flex",
    "user": "u",
}
CHAT_SETTINGS: dict[str, Any] = {"frequency_penalty": 1.0, "presence_penalty": 0.5, "seed": 7, "logit_bias": {"1": 2}}


@pytest.mark.parametrize("api", ["responses", "chat_completions"])
async def test_settings_reach_the_endpoint(serve: Serve, fake: FakeOpenAI, api: str) -> None:
    openai = {"api_key": fake.api_key, "base_url": fake.base_url, "api": api, "model": "gpt-4.1-mini"}
    served: Served = await serve(Agent(name="helper"), openai=openai)
    settings = {**SETTINGS, **(CHAT_SETTINGS if api == "chat_completions" else {"logit_bias": {}})}
    changes = {"max_completion_tokens": 50, "reasoning_effort": "low", "tool_choice": "none", "tools": [WEATHER]}
    await client_of(served).chat.completions.create(**hello(**settings, **changes))
    (asked,) = [request.body for request in fake.requests if request.method == "POST"]
    expected = dict(settings)
    if api == "responses":
        del expected["verbosity"], expected["logit_bias"]
        assert "logit_bias" not in asked
        assert asked["text"]["verbosity"] == "low"
        assert (asked["max_output_tokens"], asked["reasoning"]) == (50, {"effort": "low"})
        assert asked["tools"][0]["name"] == "weather"
    else:
        assert (asked["max_tokens"], asked["reasoning_effort"]) == (50, "low")
        assert asked["tools"][0]["function"]["name"] == "weather"
    assert {name: asked.get(name) for name in expected} == expected
    assert asked["tool_choice"] == "none"
    assert "metadata" not in asked
