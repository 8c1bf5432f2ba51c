"""The description is true: requests made from it, good and bad, get the replies that it names, and no tenant's data.

`just schemathesis` runs the same with many more requests.
"""

import copy
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import requests
import schemathesis
from hypothesis import assume
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.api.application import create_app
from app.infrastructure.completions.destinations.http import HttpSink
from tests.api.serving import settings_of
from tests.api.tenants import Service, Tenant, path_parameters, service

EXAMPLES = int(os.environ.get("DESCRIBED_EXAMPLES", "0"))
"""Generated requests of each kind for each route; 0 is a short run, without the cases that are made systematically."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
DOCUMENT: dict[str, Any] = create_app(settings=settings_of("sqlite://")).openapi()
COMMON = {"model", "agent", "token"}
"""Path parameters that name no tenant's own: agents are everybody's, and who has a link's token may read."""
REFUSING = {"/v1/embeddings", "/v1/responses/compact", "/v1/responses/input_tokens"}
"""Without an upstream model nobody makes embeddings; the others are refused always."""
MAX_URL_CHARS = 60_000
NONSENSE = (b"", b"{", b"[]", b"7", b'"text"', b"\xff", b'{"nonsense": 1}', b"[" * 5000, b'{"a":' * 5000)


def _named_statuses_only() -> dict[str, Any]:
    """Return the document without the replies that fit every status: each that is sent must have been named."""
    document = copy.deepcopy(DOCUMENT)
    for operations in document["paths"].values():
        for operation in operations.values():
            del operation["responses"]["default"]
    return document


CONFIG = schemathesis.Config.from_dict(
    {
        "generation": {
            "max-examples": EXAMPLES or 10,
            "deterministic": True,
            "database": "none",
            "with-security-parameters": False,
            "no-shrink": not EXAMPLES,
        },
        "phases": {"coverage": {"enabled": bool(EXAMPLES)}},
    }
)
schema = schemathesis.openapi.from_dict(_named_statuses_only(), config=CONFIG)
OPERATIONS = [
    (method, path, operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]
BODIES = [(method, path, operation) for method, path, operation in OPERATIONS if "requestBody" in operation]
OWNED = [entry for entry in OPERATIONS if set(path_parameters(entry[1])) - COMMON]


@pytest.fixture(scope="module")
def served(migrated_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The application over a file of its own."""
    file = shutil.copy(migrated_template, tmp_path_factory.mktemp("described") / "api.db")

    async def taken(*_: Any) -> int:
        return 200

    with pytest.MonkeyPatch.context() as patch, service(settings_of(f"sqlite:///{file}")) as running:
        patch.setattr(HttpSink, "send", taken)  # addresses are made up, and none of them may be called
        yield running


@pytest.fixture(scope="module")
def tenants(served: Service) -> tuple[Tenant, Tenant]:
    """The one who asks, and a stranger."""
    return served.tenant("acme"), served.tenant("globex")


@pytest.fixture(scope="module")
def neighbours(served: Service) -> tuple[Tenant, Tenant]:
    """Two tenants whose things are all there: the tests that use them delete nothing."""
    return served.tenant("initech"), served.tenant("umbrella")


turns = itertools.count()


@schema.parametrize()
def test_replies_are_as_described(case: Any, served: Service, tenants: tuple[Tenant, Tenant]) -> None:
    asker, stranger = tenants
    turn = next(turns)
    owner = (None, asker, stranger)[turn % 3]
    if owner is stranger and "token" in case.path_parameters:
        owner = asker  # who has the token may read
    elif owner is asker and case.method == "DELETE":
        owner = stranger  # what is gone would make the other requests poorer
    if owner is not None:
        choices = _ids(owner, case.path)
        if case.path.endswith("/events"):
            choices = choices[:1]  # the other run waits for a person, and who reads on behind that waits with it
        case.path_parameters = {**case.path_parameters, **choices[turn // 3 % len(choices)]}
        if "/api/" in case.path:
            case.headers["X-Session-Id"] = owner.session_id
        for name, value in (("sessionId", owner.session_id), ("model", "demo")):
            if isinstance(case.body, dict) and isinstance(case.body.get(name), str):
                case.body = {**case.body, name: value}
    sent = requests.Request(**case.as_transport_kwargs(base_url="http://localhost:8000")).prepare()
    assume(len(str(sent.url)) < MAX_URL_CHARS)  # the client sends no longer one
    headers = {**sent.headers, **asker.headers}
    reply = served.send(str(sent.method), str(sent.url), headers=headers, content=sent.body)
    assert stranger.marker not in reply.text
    case.validate_response(reply, checks=CHECKS)


def _url(path: str, ids: dict[str, str]) -> str:
    return re.sub(r"\{([^}]+)\}", lambda name: ids[name.group(1)], path)


def _ids(owner: Tenant, path: str) -> list[dict[str, str]]:
    """Return each way to fill a path with what the tenant owns."""
    names = path_parameters(path)
    common = {"model": ["demo"], "agent": ["demo"], "token": [owner.share_token]}
    choices = [common[name] if name in COMMON else owner.ids[name] for name in names]
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*choices)]


def _example(operation: dict[str, Any]) -> Any:
    if "requestBody" not in operation:
        return None
    described = operation["requestBody"]["content"]["application/json"]
    examples = described.get("examples", {"only": {"value": described.get("example")}})
    return next(iter(examples.values()))["value"]


@pytest.mark.parametrize(("method", "path", "operation"), OWNED, ids=lambda value: value if type(value) is str else "")
def test_what_a_stranger_owns_does_not_exist(
    method: str, path: str, operation: dict[str, Any], served: Service, neighbours: tuple[Tenant, Tenant]
) -> None:
    for asker, owner in (neighbours, neighbours[::-1]):
        theirs = _ids(owner, path)
        if method == "get":
            headers = owner.headers | {"x-session-id": owner.session_id}
            found = [served.send("GET", _url(path, ids), headers=headers) for ids in theirs]
            assert 200 in {reply.status_code for reply in found} or path.endswith("/stream")
        mixed = [
            {**others, name: own[name]}
            for own in _ids(asker, path)
            for others in theirs
            for name in own
            if len(own) > 1
        ]
        for ids in theirs + mixed:
            headers = asker.headers | {"x-session-id": asker.session_id}
            reply = served.send(method.upper(), _url(path, ids), headers=headers, json=_example(operation))
            assert reply.status_code == 404, (ids, reply.text)
            assert owner.marker not in reply.text


def _takes_session(operation: dict[str, Any]) -> bool:
    return any(parameter["name"] == "X-Session-Id" for parameter in operation.get("parameters", ()))


def test_lists_hold_nothing_of_a_stranger(served: Service, neighbours: tuple[Tenant, Tenant]) -> None:
    for asker, owner in (neighbours, neighbours[::-1]):
        for method, path, operation in OPERATIONS:
            if method == "get" and "{" not in path:
                headers = asker.headers | ({"x-session-id": asker.session_id} if _takes_session(operation) else {})
                query = "?q=marker" if path.endswith("/search") else "?start_time=1" if "/organization/" in path else ""
                reply = served.send("GET", path + query, headers=headers)
                assert reply.status_code == 200, (path, reply.text)
                assert owner.marker not in reply.text, path
                for theirs in itertools.chain(*owner.ids.values(), [owner.name]):
                    assert theirs not in reply.text, path
                if _takes_session(operation):
                    headers = asker.headers | {"x-session-id": owner.session_id}
                    assert served.send("GET", path + query, headers=headers).status_code == 404, path


@pytest.mark.parametrize("path", ["/api/chat", "/api/chat/stream", "/api/runs"])
def test_a_strangers_session_and_conversation(path: str, served: Service, neighbours: tuple[Tenant, Tenant]) -> None:
    for asker, owner in (neighbours, neighbours[::-1]):
        for body in (
            {"sessionId": owner.session_id},
            {"sessionId": asker.session_id, "conversationId": owner.ids["conversationId"][0]},
        ):
            reply = served.send("POST", path, headers=asker.headers, json={**body, "message": "hi"})
            assert reply.status_code == 404, reply.text


def test_a_strangers_ids_in_bodies(served: Service, neighbours: tuple[Tenant, Tenant]) -> None:
    for asker, owner in (neighbours, neighbours[::-1]):
        conversation = owner.ids["conversationId"][0]
        mine = asker.ids["conversationId"][1]
        said = {"id": "m9", "role": "user", "content": "hi"}
        written = {"id": "m9", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
        chat = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}
        agui = {"runId": "r9", "messages": [said], "tools": [], "context": [], "state": {}, "forwardedProps": {}}
        asked: list[tuple[str, dict[str, Any]]] = [
            ("/v1/responses", {"model": "demo", "input": "hi", "conversation": conversation}),
            ("/v1/responses", {"model": "demo", "input": "hi", "conversation": {"id": conversation}}),
            ("/v1/chat/completions", {**chat, "metadata": {"conversation_id": conversation}}),
            (f"/v1/conversations/{mine}/fork", {"after_run_id": owner.ids["runId"][0]}),
            (f"/v1/conversations/{mine}/fork", {"after_response_id": owner.ids["responseId"][0]}),
            ("/api/chat/ai", {"id": "c9", "conversationId": conversation, "messages": [written]}),
            ("/api/chat/ai", {"id": conversation, "messages": [written]}),
            ("/agui/demo", {"threadId": conversation, **agui}),
        ]
        for path, body in asked:
            reply = served.send("POST", path, headers=asker.headers, json=body)
            assert reply.status_code == 404, (path, body, reply.text)
            assert owner.marker not in reply.text


def test_a_strangers_ids_are_as_unknown_as_nobodys(served: Service, neighbours: tuple[Tenant, Tenant]) -> None:
    """Where the platform answers 400 to an unknown id."""
    approval = {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}
    for asker, owner in (neighbours, neighbours[::-1]):
        response, item = owner.ids["responseId"][0], owner.ids["itemId"][0]
        fork = f"/v1/conversations/{asker.ids['conversationId'][1]}/fork"
        for path, body, theirs in (
            ("/v1/responses", {"model": "demo", "input": "hi", "previous_response_id": response}, response),
            ("/v1/responses", {"input": [approval], "previous_response_id": response}, response),
            (fork, {"after_item_id": item}, item),
        ):
            told: list[str] = []
            for id_ in (theirs, re.sub("[0-9a-f]{4}$", "ffff", theirs)):
                text = json.dumps(body).replace(theirs, id_)
                headers = {**asker.headers, "content-type": "application/json"}
                reply = served.send("POST", path, headers=headers, content=text)
                assert reply.status_code == 400, reply.text
                told.append(reply.text.replace(id_, ""))
            assert told[0] == told[1]


def test_equal_names_of_two_tenants_are_two_things(served: Service, neighbours: tuple[Tenant, Tenant]) -> None:
    for asker, owner in (neighbours, neighbours[::-1]):
        reply = served.send("GET", f"/api/chat/ai/chat-of-{owner.name}/stream", headers=asker.headers)
        assert (reply.status_code, reply.text) == (204, "")
        said = {"id": "m9", "role": "user", "content": "hi"}
        body = {"threadId": owner.thread_id, "runId": "run-1", "messages": [said], "tools": [], "context": []}
        reply = served.send(
            "POST", "/agui/demo", headers=asker.headers, json={**body, "state": {}, "forwardedProps": {}}
        )
        assert reply.status_code == 200
        assert "message 1 of this conversation" in reply.text
        assert owner.marker not in reply.text


@pytest.mark.parametrize(("method", "path", "operation"), BODIES, ids=lambda value: value if type(value) is str else "")
def test_nonsense_is_refused(
    method: str, path: str, operation: dict[str, Any], served: Service, neighbours: tuple[Tenant, Tenant]
) -> None:
    asker = neighbours[0]
    url = _url(path, _ids(asker, path)[0])
    headers = {**asker.headers, "content-type": "application/json", "x-session-id": asker.session_id}
    required = operation["requestBody"].get("required", False)
    for body in NONSENSE:
        if body or required:
            reply = served.send(method.upper(), url, headers=headers, content=body)
            assert reply.status_code == 400, (body[:20], reply.text)
            assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    whole = _example(operation) or {}
    for name, described in _properties(operation).items():
        for value in ([[7]], {"": [None]}, 1e308, -1, "\x00", "\ud800", "x" * 3000, True):
            body = json.dumps({**whole, name: value}).encode()
            reply = served.send(method.upper(), url, headers=headers, content=body)
            assert reply.status_code < 500, (name, value, reply.text)
            if value == [[7]] and described.keys() & {"type", "anyOf", "$ref"}:
                assert reply.status_code in {400, 404}, (name, reply.text)


def _properties(operation: dict[str, Any]) -> dict[str, Any]:
    described = operation["requestBody"]["content"]["application/json"]["schema"]
    for one in described.get("anyOf", [described]):
        if "$ref" in one:
            return DOCUMENT["components"]["schemas"][one["$ref"].rpartition("/")[2]]["properties"]
        if "properties" in one:
            return one["properties"]
    raise AssertionError(described)


@pytest.mark.parametrize(("method", "path", "operation"), BODIES, ids=lambda value: value if type(value) is str else "")
def test_examples_work(
    method: str, path: str, operation: dict[str, Any], served: Service, neighbours: tuple[Tenant, Tenant]
) -> None:
    asker = neighbours[0]
    described = operation["requestBody"]["content"]["application/json"]
    for name, example in described.get("examples", {}).items():
        if path.endswith("/approvals"):  # a request is answered once
            asker = served.tenant(f"asks-{next(turns)}")
        reply = _answer(served, asker, method, path, _ids(asker, path)[-1], example["value"])
        assert reply.status_code < 300, (name, reply.text)
    assert "examples" in described or path == "/v1/embeddings"


def test_each_route_answers_its_owner(served: Service) -> None:
    """Those that change least come first: what they tell of must still be there."""
    asker = served.tenant("hooli")
    order = ["get", "post", "delete"]
    for method, path, operation in sorted(
        OPERATIONS, key=lambda entry: (entry[1].endswith("/archive"), order.index(entry[0]), -len(entry[1]))
    ):
        if path in REFUSING:
            continue
        good = [
            reply.status_code < 300
            for ids in _ids(asker, path)
            for reply in [_answer(served, asker, method, path, ids, _example(operation))]
        ]
        assert any(good), (method, path)


def _answer(
    served: Service, asker: Tenant, method: str, path: str, ids: dict[str, str], example: Any
) -> httpx2.Response:
    """Send what a route wants, and check the reply against the description."""
    text = re.sub("sess_[0-9a-f]{32}", asker.session_id, json.dumps(example)).replace("call_1", asker.call_id)
    query = "?q=marker" if path.endswith("/search") else "?start_time=1" if "/organization/" in path else ""
    headers = {**asker.headers, "x-session-id": asker.session_id}
    body = None if example is None else json.loads(text)
    reply = served.send(method.upper(), _url(path, ids) + query, headers=headers, json=body)
    case = schema[path][method].Case(path_parameters=ids)
    case.validate_response(reply, checks=CHECKS)
    return reply
