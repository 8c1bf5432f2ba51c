"""What cannot be done is refused by name, and what can reaches the model's endpoint under its own name."""

from collections.abc import Callable
from typing import Any

import pytest
from agents import Agent

from tests.api.openai.response_clients import WEATHER, client_of, streamed
from tests.api.serving import Served, says, scripted
from tests.fakes.openai import FakeOpenAI, incomplete

Serve = Callable[..., Any]

HI = {"model": "helper", "input": "hi"}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True}
USER = {"role": "user", "content": "hi"}


@pytest.fixture
async def shared(serve: Serve) -> Served:
    """A server that needs no model."""
    return await serve(scripted())


def item(**fields: Any) -> dict[str, Any]:
    return {"input": [{"type": "message", **USER, **fields}]}


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"model": None}, "model", "missing_required_parameter"),
    ({"model": 7}, "model", "invalid_type"),
    ({"input": None}, "input", "missing_required_parameter"),
    ({"input": 7}, "input", "invalid_type"),
    ({"input": []}, "input", "invalid_value"),
    ({"input": " "}, "input", "invalid_value"),
    ({"input": ["hi"]}, "input[0]", "invalid_type"),
    ({"input": [{"type": 7}]}, "input[0].type", "invalid_type"),
    ({"input": [{"content": "hi"}]}, "input[0].role", "missing_required_parameter"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type", "unsupported_parameter"),
    ({"input": [{"id": "msg_1"}]}, "input[0].type", "unsupported_parameter"),
    ({"input": [{"type": "computer_call", "id": "c"}]}, "input[0].type", "unsupported_parameter"),
    (item(role="tool"), "input[0].role", "invalid_value"),
    (item(content=None), "input[0].content", "missing_required_parameter"),
    (item(content=7), "input[0].content", "invalid_type"),
    (item(content=[7]), "input[0].content[0]", "invalid_type"),
    (item(content=[{"text": "x"}]), "input[0].content[0].type", "missing_required_parameter"),
    (item(content=[{"type": "input_audio"}]), "input[0].content[0].type", "invalid_value"),
    (item(content=[{"type": "input_text"}]), "input[0].content[0].text", "missing_required_parameter"),
    (item(content=[{"type": "input_text", "text": 7}]), "input[0].content[0].text", "invalid_type"),
    (
        item(content=[{"type": "input_file", "file_id": "file-1"}]),
        "input[0].content[0].file_id",
        "unsupported_parameter",
    ),
    (item(mood="good"), "input[0].mood", "unknown_parameter"),
    (
        {"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]},
        "input",
        "invalid_value",
    ),
    (
        {"input": [{"type": "function_call_output", "output": "x"}]},
        "input[0].call_id",
        "missing_required_parameter",
    ),
    ({"mood": "good"}, "mood", "unknown_parameter"),
    ({"temperature": "warm"}, "temperature", "invalid_type"),
    ({"temperature": True}, "temperature", "invalid_type"),
    ({"temperature": 3}, "temperature", "invalid_value"),
    ({"top_p": -1}, "top_p", "invalid_value"),
    ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
    ({"max_output_tokens": 1.5}, "max_output_tokens", "invalid_type"),
    ({"top_logprobs": 21}, "top_logprobs", "invalid_value"),
    ({"stream": "yes"}, "stream", "invalid_type"),
    ({"instructions": ["x"]}, "instructions", "invalid_type"),
    ({"metadata": []}, "metadata", "invalid_type"),
    ({"metadata": {"a": 7}}, "metadata.a", "invalid_type"),
    ({"metadata": {"a": "x" * 513}}, "metadata.a", "invalid_value"),
    ({"metadata": {"a" * 65: "x"}}, f"metadata.{'a' * 64}", "invalid_value"),
    ({"metadata": {str(number): "x" for number in range(17)}}, "metadata", "invalid_value"),
    ({"include": ["everything"]}, "include[0]", "invalid_value"),
    ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "invalid_value"),
    ({"reasoning": {"mood": "good"}}, "reasoning.mood", "unknown_parameter"),
    ({"text": {"format": {"type": "json_object"}}}, "text.format.type", "unsupported_value"),
    ({"text": {"format": {}}}, "text.format.type", "missing_required_parameter"),
    ({"text": {"format": FORMAT | {"name": "a b"}}}, "text.format.name", "invalid_value"),
    (
        {"text": {"format": {"type": "json_schema", "name": "a"}}},
        "text.format.schema",
        "missing_required_parameter",
    ),
    ({"text": {"format": FORMAT | {"schema": {"type": "what"}}}}, "text.format.schema", "invalid_value"),
    ({"text": {"format": FORMAT | {"schema": {"$ref": "http://x/y"}}}}, "text.format.schema", "invalid_value"),
    ({"text": {"format": FORMAT | {"mood": 1}}}, "text.format.mood", "unknown_parameter"),
    ({"text": {"format": FORMAT | {"strict": "yes"}}}, "text.format.strict", "invalid_type"),
    ({"tools": {}}, "tools", "invalid_type"),
    ({"tools": [7]}, "tools[0]", "invalid_type"),
    ({"tools": [{}]}, "tools[0].type", "missing_required_parameter"),
    ({"tools": [WEATHER, {"type": "web_search"}]}, "tools[1].type", "unsupported_value"),
    ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0].type", "unsupported_value"),
    ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
    ({"tools": [WEATHER | {"name": "not a name"}]}, "tools[0].name", "invalid_value"),
    ({"tools": [WEATHER | {"parameters": 7}]}, "tools[0].parameters", "invalid_value"),
    ({"tools": [WEATHER, WEATHER]}, "tools[1].name", "invalid_value"),
    ({"tools": [WEATHER | {"defer_loading": True}]}, "tools[0].defer_loading", "unsupported_parameter"),
    ({"tool_choice": "always"}, "tool_choice", "invalid_value"),
    ({"tool_choice": 7}, "tool_choice", "invalid_type"),
    ({"tool_choice": {"type": "web_search"}}, "tool_choice.type", "unsupported_value"),
    ({"tool_choice": {"type": "function", "name": "weather"}}, "tool_choice.name", "invalid_value"),
    ({"background": True, "store": False}, "background", "invalid_value"),
    ({"stream_options": {"include_obfuscation": False}}, "stream_options", "invalid_value"),
    (
        {"stream": True, "stream_options": {"include_obfuscation": 1}},
        "stream_options.include_obfuscation",
        "invalid_type",
    ),
    ({"conversation": 7}, "conversation", "invalid_type"),
    ({"conversation": {"id": 7}}, "conversation.id", "invalid_type"),
    ({"conversation": {"id": "conv_1", "mood": 1}}, "conversation.mood", "unknown_parameter"),
    (
        {"conversation": "conv_1", "previous_response_id": "resp_1"},
        "previous_response_id",
        "mutually_exclusive_parameters",
    ),
    ({"previous_response_id": "resp_1"}, "previous_response_id", "previous_response_not_found"),
    ({"previous_response_id": f"resp_{'0' * 32}"}, "previous_response_id", "previous_response_not_found"),
    *(
        ({name: value}, name, "unsupported_parameter")
        for name, value in {
            "access_programs": {"cyber": "standard"},
            "context_management": [{"type": "compaction"}],
            "image": {"context_compression": "auto"},
            "max_tool_calls": 3,
            "moderation": {"model": "m"},
            "prompt": {"id": "pmpt_1"},
        }.items()
    ),
]


async def test_refused(shared: Served) -> None:
    found = {}
    for changes, param, code in REFUSED:
        sent = {name: value for name, value in {**HI, **changes}.items() if value is not None}
        reply = await shared.http.post("/v1/responses", json=sent)
        error = reply.json()["error"]
        answer = (reply.status_code, error["param"], error["code"], error["type"])
        if answer != (400, param, code, "invalid_request_error"):
            found[str(changes)] = answer
    assert found == {}


async def test_bodies_that_are_no_request(shared: Served) -> None:
    for body in (
        b"",
        b"[]",
        b"7",
        b"{",
        b'{"model": NaN}',
        b"[" * 100_000,
        b'{"model":"helper"',
        b"\xff",
        b'{"a": 1e999}',
        b'{"a": %d}' % 2**63,
    ):
        reply = await shared.http.post("/v1/responses", content=body, headers={"content-type": "application/json"})
        assert reply.status_code == 400
        assert reply.json()["error"]["type"] == "invalid_request_error"


async def test_nesting_is_bounded(shared: Served) -> None:
    deep = '{"model":"helper","input":"hi","metadata":' + '{"a":' * 200 + "1" + "}" * 201
    reply = await shared.http.post("/v1/responses", content=deep, headers={"content-type": "application/json"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_value")


PATHS = [
    ("GET", "/v1/responses/resp_1", 404, "response_not_found"),
    ("GET", f"/v1/responses/resp_{'0' * 32}", 404, "response_not_found"),
    ("GET", f"/v1/responses/resp_{'0' * 32}_1", 404, "response_not_found"),
    ("GET", "/v1/responses/%00", 404, "response_not_found"),
    ("DELETE", "/v1/responses/resp_1", 404, "response_not_found"),
    ("POST", "/v1/responses/resp_1/cancel", 404, "response_not_found"),
    ("GET", "/v1/responses/resp_1/input_items", 404, "response_not_found"),
    ("GET", "/v1/responses/resp_1?stream=true&starting_after=x", 400, "invalid_type"),
    ("POST", "/v1/responses/input_tokens", 400, "unsupported_endpoint"),
    ("POST", "/v1/responses/compact", 400, "unsupported_endpoint"),
]


async def test_paths(shared: Served) -> None:
    found = {}
    for method, path, status, code in PATHS:
        reply = await shared.http.request(method, path)
        answer = (reply.status_code, reply.json()["error"]["code"])
        if answer != (status, code):
            found[method, path] = answer
    assert found == {}


async def test_a_later_part_that_is_not_there(serve: Serve) -> None:
    served = await serve(scripted(says("Hi.")))
    response = await client_of(served).responses.create(**HI)
    for path in ("", "?stream=true"):
        assert (await served.http.get(f"/v1/responses/{response.id}_2{path}")).status_code == 404


async def test_unknown_conversations(shared: Served) -> None:
    reply = await shared.http.post("/v1/responses", json={**HI, "conversation": "conv_1"})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (404, "conversation_not_found", "conversation")


async def test_settings_reach_the_model(serve: Serve, fake: FakeOpenAI) -> None:
    endpoint = {"api_key": fake.api_key, "base_url": fake.base_url, "api": "responses", "max_retries": 0}
    served = await serve(Agent(name="helper", model="gpt-4.1", instructions="Be kind."), openai=endpoint)
    sent: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.25,
        "max_output_tokens": 50,
        "parallel_tool_calls": False,
        "truncation": "auto",
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "service_tier": "flex",
        "user": "u",
        "tools": [WEATHER],
        "tool_choice": {"type": "function", "name": "weather"},
    }
    response = await client_of(served).responses.create(
        **HI,
        **sent,
        instructions="Be short.",
        include=["message.output_text.logprobs"],
        text={"verbosity": "low"},
        metadata={"mine": "alone"},
    )
    assert response.status == "completed", response.error
    asked = fake.requests[-1].body
    assert {name: asked.get(name) for name in sent if name != "tools"} == {
        name: value for name, value in sent.items() if name != "tools"
    }
    assert [tool["name"] for tool in asked["tools"]] == ["weather"]
    assert asked["text"]["verbosity"] == "low"
    assert asked["include"] == ["message.output_text.logprobs"]
    assert "Be kind." in asked["instructions"]
    assert "Be short." in asked["instructions"]
    assert "metadata" not in asked
    said = response.model_dump()
    for name in sent:
        if name != "tools":
            assert said[name] == sent[name], name


async def test_the_answer_follows_a_schema(serve: Serve) -> None:
    served = await serve(scripted(says('{"city": "Oslo"}')))
    client = client_of(served)
    response: Any = await client.responses.create(**HI, text={"format": FORMAT})
    assert response.output_text == '{"city": "Oslo"}'
    assert response.text.format.schema_ == SCHEMA
    assert await client.responses.retrieve(response.id) == response


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_cut_is_incomplete(serve: Serve, fake: FakeOpenAI, *, stream: bool) -> None:
    endpoint = {"api_key": fake.api_key, "base_url": fake.base_url, "api": "responses", "max_retries": 0}
    served = await serve(Agent(name="helper", model="gpt-4.1"), openai=endpoint)
    client = client_of(served)
    fake.script([incomplete("Half of an")])
    asked: dict[str, Any] = {"model": "helper", "input": "hi", "max_output_tokens": 16}
    if stream:
        last: Any = (await streamed(client, **asked))[-1]
        assert last.type == "response.incomplete"
        response = last.response
    else:
        response = await client.responses.create(**asked)
    assert response.status == "incomplete", response
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.max_output_tokens == 16
    assert await client.responses.retrieve(response.id) == response


async def test_what_came_before_a_cut_is_told_plain_as_in_a_stream(serve: Serve, fake: FakeOpenAI) -> None:
    endpoint = {"api_key": fake.api_key, "base_url": fake.base_url, "api": "responses", "max_retries": 0}
    served = await serve(Agent(name="helper", model="gpt-4.1"), openai=endpoint)
    client = client_of(served)
    asked: dict[str, Any] = {"model": "helper", "input": "hi", "max_output_tokens": 16}
    fake.script([incomplete("Half of an")])
    plain = await client.responses.create(**asked)
    fake.script([incomplete("Half of an")])
    last: Any = (await streamed(client, **asked))[-1]
    for response in (plain, last.response):
        assert (response.status, response.output_text) == ("incomplete", "Half of an"), response
        assert response.incomplete_details.reason == "max_output_tokens"
        assert [(item.type, item.status) for item in response.output] == [("message", "incomplete")]
        assert await client.responses.retrieve(response.id) == response
    unlike = {"id", "output", "created_at"}
    assert plain.model_dump(exclude=unlike) == last.response.model_dump(exclude=unlike)
    assert plain.output[0].content == last.response.output[0].content
