"""The fake refuses what the real API refuses, with its status, envelope, parameter and code."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from tests.fakes.openai import Call, FakeOpenAI, Reasoning, Text

MODEL = "gpt-4.1"
USER: dict[str, Any] = {"role": "user", "content": "hi"}
CALL: dict[str, Any] = {"type": "function_call", "call_id": "call_1", "name": "add", "arguments": "{}"}
OUTPUT: dict[str, Any] = {"type": "function_call_output", "call_id": "call_1", "output": "3"}
LOOSE: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
OPTIONAL: dict[str, Any] = {**LOOSE, "required": [], "additionalProperties": False}
NESTED: dict[str, Any] = {
    "type": "object",
    "properties": {"inner": {"type": "array", "items": LOOSE}},
    "required": ["inner"],
    "additionalProperties": False,
}
TOOL_CALLS: list[Any] = [{"id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{}"}}]


class Wire:
    """Plain HTTP, because the client would not send what is wrong."""

    def __init__(self, fake: FakeOpenAI, http: httpx2.Client) -> None:
        self.fake = fake
        self.http = http

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> httpx2.Response:
        options.setdefault("headers", {"authorization": f"Bearer {self.fake.api_key}"})
        if body is not None:
            options["json"] = body
        return self.http.request(method, f"{self.fake.base_url}{path}", **options)

    def post(self, path: str, body: Any) -> Any:
        reply = self.call("POST", path, body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def respond(self, input: Any = "hi", **options: Any) -> Any:  # noqa: A002
        return self.post("/responses", {"model": MODEL, "input": input, **options})

    def refused(
        self, path: str, body: Any, *, status: int = 400, param: str | None, code: str | None, says: str = ""
    ) -> None:
        """Send it, and check the whole envelope of the refusal."""
        check_refusal(self.call("POST", path, body), status=status, param=param, code=code, says=says)
        assert self.fake.requests[-1].outcome == "refused"


def check_refusal(reply: httpx2.Response, *, status: int, param: str | None, code: str | None, says: str) -> None:
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["code"]) == (status, param, code), error
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert says in error["message"]
    assert reply.headers["x-request-id"].startswith("req_")


@pytest.fixture
def wire(fake: FakeOpenAI) -> Any:
    with httpx2.Client() as http:
        yield Wire(fake, http)


def test_missing_and_wrong_keys(wire: Wire) -> None:
    for headers in ({}, {"authorization": "Bearer sk-other"}, {"authorization": wire.fake.api_key}):
        reply = wire.call("POST", "/responses", {"model": MODEL, "input": "hi"}, headers=headers)
        check_refusal(reply, status=401, param=None, code="invalid_api_key", says="API key")
    assert [request.authorized for request in wire.fake.requests] == [False] * 3
    assert "sk-other" not in str(wire.fake.requests)


def test_unknown_routes_methods_and_broken_json(wire: Wire) -> None:
    check_refusal(wire.call("GET", "/nothing"), status=404, param=None, code=None, says="Invalid URL (GET /v1/nothing)")
    reply = wire.call("PUT", "/responses", {})
    check_refusal(reply, status=405, param=None, code="method_not_supported", says="Not allowed to PUT")
    for content in (b"", b"{", b"[1]", b"\xff", b"[" * 100_000):
        reply = wire.call("POST", "/responses", content=content)
        check_refusal(reply, status=400, param=None, code=None, says="could not parse")


@pytest.mark.parametrize(
    ("options", "param", "code", "says"),
    [
        ({"foo": 1}, "foo", "unknown_parameter", "Unknown parameter: 'foo'."),
        ({"temperature": "1"}, "temperature", "invalid_type", "expected a decimal, but got a string"),
        ({"temperature": 2.5}, "temperature", "decimal_above_max_value", "<= 2.0"),
        ({"stream": "yes"}, "stream", "invalid_type", "expected a boolean"),
        ({"max_output_tokens": True}, "max_output_tokens", "invalid_type", "expected an integer"),
        ({"max_output_tokens": 15}, "max_output_tokens", "integer_below_min_value", ">= 16, but got 15"),
        ({"truncation": "some"}, "truncation", "invalid_value", "'auto' or 'disabled'"),
        ({"input": 1}, "input", "invalid_type", "array of items"),
        ({"input": []}, "input", "missing_required_parameter", "must be provided"),
        ({"metadata": {"a": 1}}, "metadata.a", "invalid_type", "expected a string, but got an integer"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "object_above_max_properties", "17"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a", "string_above_max_length", "512"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options", None, "only allowed"),
        ({"tools": [{"type": "zork"}]}, "tools[0].type", "invalid_value", "'zork'"),
        ({"tools": [{"type": "function", "name": "a"}]}, "tools[0].parameters", "missing_required_parameter", ""),
        ({"tool_choice": {"type": "function", "name": "b"}}, "tool_choice", None, "'b' not found"),
        ({"tool_choice": "required"}, "tool_choice", None, "with 'tools'"),
        ({"text": {"format": {"type": "json_object"}}}, "input", None, "must contain the word 'json'"),
        ({"background": True}, "background", "unsupported_by_fake", "does not support"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "previous_response_not_found", "resp_1"),
        ({"previous_response_id": "resp_1", "conversation": "conv_1"}, None, "mutually_exclusive_parameters", ""),
        ({"conversation": "c1"}, "conversation", "invalid_value", "begins with 'conv'"),
    ],
)
def test_response_parameters(wire: Wire, options: dict[str, Any], param: str | None, code: str, says: str) -> None:
    wire.refused("/responses", {"model": MODEL, "input": "hi", **options}, param=param, code=code, says=says)


def test_response_model_and_conversation_must_exist(wire: Wire) -> None:
    for model in ("gpt-none", "text-embedding-3-small"):
        body = {"model": model, "input": "hi"}
        wire.refused("/responses", body, status=404, param="model", code="model_not_found", says=model)
    wire.refused("/responses", {"input": "hi"}, param="model", code="missing_required_parameter")
    body = {"model": MODEL, "input": "hi", "conversation": "conv_none"}
    wire.refused("/responses", body, status=404, param="conversation", code=None, says="'conv_none' not found")
    reply = wire.call("GET", "/responses/resp_none")
    check_refusal(reply, status=404, param=None, code=None, says="'resp_none' not found")


@pytest.mark.parametrize(
    ("item", "param", "code"),
    [
        ({"type": "zork"}, "input[1].type", "invalid_value"),
        ({"content": "hi"}, "input[1].type", "missing_required_parameter"),
        ({"type": "message", "content": "hi"}, "input[1].role", "missing_required_parameter"),
        ({"role": "tool", "content": "hi"}, "input[1].role", "invalid_value"),
        ({"role": "user"}, "input[1].content", "missing_required_parameter"),
        ({**USER, "foo": 1}, "input[1].foo", "unknown_parameter"),
        ({"role": "user", "content": 1}, "input[1].content", "invalid_type"),
        ({"role": "user", "content": [{"type": "zork"}]}, "input[1].content[0].type", "invalid_value"),
        (
            {"role": "user", "content": [{"type": "output_text", "text": ""}]},
            "input[1].content[0].type",
            "invalid_value",
        ),
        (
            {"role": "assistant", "content": [{"type": "input_text", "text": ""}]},
            "input[1].content[0].type",
            "invalid_value",
        ),
        (
            {"role": "user", "content": [{"type": "input_text", "text": "", "x": 1}]},
            "input[1].content[0].x",
            "unknown_parameter",
        ),
        ({**CALL, "foo": 1}, "input[1].foo", "unknown_parameter"),
        ({**CALL, "arguments": {}}, "input[1].arguments", "invalid_type"),
        ({**CALL, "id": "call_1"}, "input[1].id", "invalid_value"),
        ({**CALL, "call_id": "c" * 65}, "input[1].call_id", "string_above_max_length"),
        ({"type": "function_call_output", "output": ""}, "input[1].call_id", "missing_required_parameter"),
        ({"type": "reasoning", "id": "rs_1"}, "input[1].summary", "missing_required_parameter"),
        ("hi", "input[1]", "invalid_type"),
    ],
)
def test_input_items(wire: Wire, item: Any, param: str, code: str) -> None:
    wire.refused("/responses", {"model": MODEL, "input": [USER, item]}, param=param, code=code)


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ([USER, OUTPUT], "No tool call found for function call output with call_id call_1."),
        ([USER, OUTPUT, CALL], "No tool call found for function call output with call_id call_1."),
        ([USER, CALL], "No tool output found for function call call_1."),
        ([USER, CALL, USER], "No tool output found for function call call_1."),
        ([{**USER, "id": "msg_1"}] * 2, "Duplicate item found with id msg_1."),
    ],
)
def test_context_of_one_input(wire: Wire, items: list[Any], says: str) -> None:
    wire.refused("/responses", {"model": MODEL, "input": items}, param="input", code=None, says=says)


def test_outputs_match_calls_of_the_previous_response_and_of_the_conversation(wire: Wire) -> None:
    conversation = wire.post("/conversations", {})["id"]
    wire.fake.script([Call("add", call_id="call_1"), Call("add", call_id="call_1")])
    previous = wire.respond()["id"]
    wire.respond(conversation=conversation)

    for place in ({"previous_response_id": previous}, {"conversation": conversation}):
        body = {"model": MODEL, "input": "something else", **place}
        wire.refused(
            "/responses", body, param="input", code=None, says="No tool output found for function call call_1."
        )
        body["input"] = [{**OUTPUT, "call_id": "call_2"}]
        wire.refused("/responses", body, param="input", code=None, says="with call_id call_2.")
        assert wire.respond([OUTPUT], **place)["output"][0]["content"][0]["text"] == "3"


def test_reasoning_and_what_follows_it_stay_together(wire: Wire) -> None:
    wire.fake.script([[Reasoning(), Text("so")]])
    reasoning, message = wire.respond()["output"]
    lonely = f"Item '{reasoning['id']}' of type 'reasoning' was provided without its required following item."
    for items in ([USER, reasoning], [USER, reasoning, USER]):
        wire.refused("/responses", {"model": MODEL, "input": items}, param="input", code=None, says=lonely)
    bare = f"of type 'message' was provided without its required 'reasoning' item: '{reasoning['id']}'"
    wire.refused("/responses", {"model": MODEL, "input": [USER, message]}, param="input", code=None, says=bare)

    assert wire.respond([USER, reasoning, message, USER])["status"] == "completed"
    by_reference = [USER, {"type": "item_reference", "id": reasoning["id"]}, {"id": message["id"]}, USER]
    assert wire.respond(by_reference)["status"] == "completed"


def test_items_that_were_never_stored_are_not_found(wire: Wire) -> None:
    wire.fake.script([[Reasoning(), Text("so")]] * 2)
    reasoning, message = wire.respond(store=False)["output"]
    body = {"model": MODEL, "input": [USER, reasoning, message, USER]}
    wire.refused("/responses", body, status=404, param="input", code=None, says="Items are not persisted")
    body["input"] = [USER, {"type": "item_reference", "id": "msg_1"}]
    wire.refused("/responses", body, status=404, param="input", code=None, says="'msg_1' not found")

    reasoning, message = wire.respond(store=False, include=["reasoning.encrypted_content"])["output"]
    assert wire.respond([USER, reasoning, message, USER])["status"] == "completed"


def test_an_unstored_response_is_neither_continued_nor_found(wire: Wire) -> None:
    made = wire.respond(store=False)["id"]
    body = {"model": MODEL, "input": "hi", "previous_response_id": made}
    wire.refused("/responses", body, param="previous_response_id", code="previous_response_not_found", says=made)
    assert wire.call("GET", f"/responses/{made}").status_code == 404


def test_replayed_history_is_a_duplicate(wire: Wire) -> None:
    conversation = wire.post("/conversations", {})["id"]
    in_conversation = wire.respond(conversation=conversation)
    chained = wire.respond()
    for replayed, place in (
        (in_conversation, {"conversation": {"id": conversation}}),
        (chained, {"previous_response_id": chained["id"]}),
    ):
        items = [*replayed["output"], USER]
        says = f"Duplicate item found with id {items[0]['id']}."
        wire.refused("/responses", {"model": MODEL, "input": items, **place}, param="input", code=None, says=says)
    assert len(wire.fake.conversation_items(conversation)) == 2


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (LOOSE, "In context=(), 'additionalProperties' is required to be supplied and to be false."),
        (OPTIONAL, "including every key in properties. Missing 'a'."),
        (NESTED, "In context=('properties', 'inner', 'items'), 'additionalProperties'"),
        ({**OPTIONAL, "properties": {}, "required": ["b"]}, "the key 'b'"),
        ({"type": "string"}, "got 'type: \"string\"'"),
        ({**OPTIONAL, "properties": {"a": {"type": "string", "default": ""}}, "required": ["a"]}, "'default' is not"),
        ({**OPTIONAL, "properties": {"a": {"$ref": "#", "title": "A"}}, "required": ["a"]}, "$ref cannot have"),
    ],
)
def test_strict_schemas(wire: Wire, schema: dict[str, Any], says: str) -> None:
    described = {"name": "answer", "strict": True, "schema": schema}
    asked = {"model": MODEL, "input": "hi"}
    body = {**asked, "text": {"format": {"type": "json_schema", **described}}}
    wire.refused("/responses", body, param="text.format.schema", code="invalid_json_schema", says=says)

    tool = {"name": "add", "strict": True, "parameters": schema}
    body = {**asked, "tools": [{"type": "function", **tool}]}
    wire.refused("/responses", body, param="tools[0].parameters", code="invalid_function_parameters", says=says)

    chat = {"model": MODEL, "messages": [USER]}
    body = {**chat, "response_format": {"type": "json_schema", "json_schema": described}}
    wire.refused("/chat/completions", body, param="response_format", code=None, says=says)
    body = {**chat, "tools": [{"type": "function", "function": tool}]}
    code = "invalid_function_parameters"
    wire.refused("/chat/completions", body, param="tools[0].function.parameters", code=code, says=says)


def test_loose_schemas_pass_when_not_strict(wire: Wire) -> None:
    format_ = {"type": "json_schema", "name": "answer", "schema": OPTIONAL, "strict": False}
    assert wire.respond(text={"format": format_})["output"][0]["content"][0]["text"] == "{}"


@pytest.mark.parametrize(
    ("options", "param", "code", "says"),
    [
        ({"foo": 1}, None, None, "Unrecognized request argument supplied: foo"),
        ({"messages": []}, "messages", "empty_array", "empty array"),
        ({"messages": "hi"}, "messages", "invalid_type", "array of items"),
        ({"messages": [{"role": "zork", "content": ""}]}, "messages[0].role", "invalid_value", "'zork'"),
        ({"messages": [{**USER, "foo": 1}]}, "messages[0].foo", "unknown_parameter", "foo"),
        ({"messages": [{"role": "assistant"}]}, "messages.[0].content", None, "got null"),
        ({"temperature": "1"}, "temperature", "invalid_type", "a decimal"),
        ({"n": 2}, "n", "unsupported_by_fake", "`n`"),
        ({"tools": []}, "tools", "empty_array", "empty array"),
        ({"tool_choice": "auto"}, "tool_choice", None, "only allowed"),
        ({"stream_options": {"include_usage": True}}, "stream_options", None, "only allowed"),
    ],
)
def test_chat_parameters(wire: Wire, options: dict[str, Any], param: str | None, code: str | None, says: str) -> None:
    body = {"model": MODEL, "messages": [USER], **options}
    wire.refused("/chat/completions", body, param=param, code=code, says=says)


def test_chat_tool_messages_answer_their_calls(wire: Wire) -> None:
    asked = {"role": "assistant", "content": None, "tool_calls": TOOL_CALLS}
    answer = {"role": "tool", "tool_call_id": "call_1", "content": "3"}
    path = "/chat/completions"
    orphan = "messages with role 'tool' must be a response"
    silent = "did not have response messages: call_1"
    for messages, param, says in (
        ([USER, answer], "messages.[1].role", orphan),
        ([USER, asked, {**answer, "tool_call_id": "call_2"}], "messages.[2].role", orphan),
        ([USER, asked], "messages.[2].role", silent),
        ([USER, asked, USER, answer], "messages.[2].role", silent),
    ):
        wire.refused(path, {"model": MODEL, "messages": messages}, param=param, code=None, says=says)
    assert (
        wire.post(path, {"model": MODEL, "messages": [USER, asked, answer]})["choices"][0]["message"]["content"] == "3"
    )
    unknown = {"model": "gpt-none", "messages": [USER]}
    wire.refused(path, unknown, status=404, param="model", code="model_not_found")


@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        ({"input": ""}, None, None),
        ({"input": {}}, "input", "invalid_type"),
        ({"dimensions": 4000}, "dimensions", "integer_above_max_value"),
        ({"encoding_format": "hex"}, "encoding_format", "invalid_value"),
    ],
)
def test_embedding_parameters(wire: Wire, options: dict[str, Any], param: str | None, code: str | None) -> None:
    body = {"model": "text-embedding-3-small", "input": "hi", **options}
    wire.refused("/embeddings", body, param=param, code=code)


def test_embeddings_need_an_embedding_model(wire: Wire) -> None:
    wire.refused("/embeddings", {"model": MODEL, "input": "hi"}, status=404, param="model", code="model_not_found")
    reply = wire.call("GET", "/models/gpt-none")
    check_refusal(reply, status=404, param="model", code="model_not_found", says="gpt-none")
