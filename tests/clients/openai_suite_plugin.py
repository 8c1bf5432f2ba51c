"""A plugin of pytest for openai-python's own tests: real objects in place of the suite's made-up ids, and a verdict.

Every request of the client passes here. What names an object that cannot exist (`conv_123`, `completion_id`, ...) gets
one that was made for this test; `model` and `input` are added where a test leaves them out. A parameter that the
server refuses with a 400 that names it, and which the request really has, is taken out and the request made again: the
test is then `passed without` these. A route answered with `unsupported_endpoint`, or a 405, is `not offered`. Anything
else that is not the reply the client's types describe, and any 5xx, is `failed`.
"""

import json
import os
import re
from collections.abc import Callable, Generator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai._base_client import AsyncAPIClient, SyncAPIClient

MODEL = os.environ["SUITE_MODEL"]
AGENT = "demo"
KEY = os.environ["SUITE_API_KEY"]
HTTP = httpx2.Client(base_url=os.environ["TEST_API_BASE_URL"], headers={"authorization": f"Bearer {KEY}"}, timeout=30)
MADE_UP_MODELS = ("gpt-6-astra", "gpt-5.4", "ft:gpt-4o-mini:acemeco:suffix:abc123", "model")
TOLD: list[dict[str, Any]] = []


def _made(path: str, **body: Any) -> dict[str, Any]:
    reply = HTTP.post(path, json=body)
    assert reply.status_code == 200, f"{path}: {reply.status_code} {reply.text}"
    return dict(reply.json())


@dataclass
class Verdict:
    """What one test did, and the objects that were made for it."""

    objects: dict[str, str] = field(default_factory=dict)
    refused: list[tuple[str, str]] = field(default_factory=list)
    not_offered: list[str] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    def conversation(self) -> str:
        """A conversation with two messages."""
        if "conversation" not in self.objects:
            items = [{"type": "message", "role": "user", "content": text} for text in ("one", "two")]
            made = _made("/conversations", items=items)
            self.objects["conversation"] = made["id"]
        return self.objects["conversation"]

    def item(self) -> str:
        """The first of its messages."""
        return str(HTTP.get(f"/conversations/{self.conversation()}/items").json()["first_id"])

    def response(self, *, of: str = AGENT, **request: Any) -> str:
        """A response that is stored: here if it is an agent's, else upstream."""
        kind = f"response {of} {sorted(request)}"
        if kind not in self.objects:
            self.objects[kind] = _made("/responses", model=of, input="a question", **request)["id"]
        return self.objects[kind]

    def completion(self) -> str:
        """A chat completion that is stored."""
        if "completion" not in self.objects:
            # The client's type of a stored message knows no role but this one.
            messages = [{"role": "assistant", "content": "an answer"}]
            made = _made("/chat/completions", model=AGENT, messages=messages, store=True)
            self.objects["completion"] = made["id"]
        return self.objects["completion"]


CURRENT: list[Verdict] = [Verdict()]


def _path(url: str) -> str:
    """Put real ids into a path."""
    verdict = CURRENT[0]
    parts = url.split("/")
    for at, part in enumerate(parts):
        if part == "conv_123":
            parts[at] = verdict.conversation()
        elif part == "msg_abc":
            parts[at] = verdict.item()
        elif part == "completion_id":
            parts[at] = verdict.completion()
        elif part == "response_id" or part.startswith("resp_677"):
            parts[at] = verdict.response(background=True) if parts[-1] == "cancel" else verdict.response()
        elif "models" in parts and part in MADE_UP_MODELS:
            parts[at] = MODEL
    return "/".join(parts)


def _body(url: str, body: dict[str, Any]) -> None:
    """Put real ids into a body, and what every request of its kind must have."""
    verdict = CURRENT[0]
    if url in ("/responses", "/responses/compact", "/responses/input_tokens"):
        body.setdefault("input", "string")
        body.setdefault("model", MODEL)
    if body.get("model") in MADE_UP_MODELS:
        body["model"] = MODEL
    if body.get("conversation") in ("string", "conv_123"):
        body["conversation"] = verdict.conversation()
    if body.get("previous_response_id") in ("previous_response_id", "resp_123"):
        body["previous_response_id"] = verdict.response(of=str(body["model"]))
    caching = body.get("prompt_cache_options")
    if isinstance(caching, dict) and caching.get("comparison_response_id"):
        caching["comparison_response_id"] = verdict.response()


def _query(url: str, query: dict[str, Any]) -> None:
    """Put the id of a real row in as the cursor."""
    if query.get("after") == "after":
        if url.startswith("/chat/completions"):
            CURRENT[0].completion()
        listed = HTTP.get(url).json().get("data")
        query["after"] = listed[0]["id"] if listed else "after"
    if query.get("model") in MADE_UP_MODELS:
        query["model"] = MODEL


def _prepared(options: Any, *, strict: bool) -> Any:
    options = options.model_copy(deep=False)
    options.max_retries = 0
    options.headers = {**(options.headers or {}), "Authorization": f"Bearer {KEY}"}
    options.url = _path(options.url)
    options.json_data = deepcopy(options.json_data)
    options.params = dict(options.params or {})
    if isinstance(options.json_data, dict):
        _body(options.url, options.json_data)
        if strict and options.url == "/embeddings" and options.json_data.get("encoding_format") == "base64":
            # The client asks for base64 where a test names no format, and its own strict check knows numbers only.
            options.json_data["encoding_format"] = "float"
    _query(options.url, options.params)
    return options


def _excused(error: openai.APIStatusError, options: Any) -> Any:
    """Take what was refused by name out of the request, or raise."""
    verdict = CURRENT[0]
    verdict.statuses.append(error.status_code)
    request = f"{options.method.upper()} {re.sub('(conv|resp|msg|chatcmpl)_?-?[0-9a-f_]{12,}', '…', options.url)}"
    if error.status_code == 405 or (error.status_code == 400 and error.code == "unsupported_endpoint"):
        verdict.not_offered.append(request)
        raise error
    excluding = re.search("'([a-z_]+)'", error.message) if error.code == "mutually_exclusive_parameters" else None
    param = error.param or (excluding and excluding[1])
    if error.status_code not in (400, 404) or not param:
        raise error
    for sent in (options.json_data, options.params):
        if isinstance(sent, dict) and param == "messages" and sent.get("messages"):
            # To be stored, a chat must have more than instructions.
            sent["messages"] = [{"role": "user", "content": "string"}]
            verdict.refused.append((request, param))
            return options
        if isinstance(sent, dict) and _removed(sent, re.findall(r"[^.\[\]]+", param)):
            verdict.refused.append((request, param))
            return options
    raise error


def _removed(sent: Any, steps: list[str]) -> bool:
    """Remove what a path names; gives whether it was there."""
    *outer, last = steps
    whole = sent
    for step in outer:
        sent = sent[int(step)] if isinstance(sent, list) else sent.get(step) if isinstance(sent, dict) else None
    if isinstance(sent, list) and last.isdigit() and int(last) < len(sent):
        del sent[int(last)]
        return True
    if isinstance(sent, dict) and sent.pop(last, None) is not None:
        return True
    # It is missed now that it is gone: so goes what it belongs to.
    return bool(outer) and whole.pop(outer[0], None) is not None


def _sync(original: Callable[..., Any]) -> Callable[..., Any]:
    def request(self: Any, cast_to: Any, options: Any, **more: Any) -> Any:
        options = _prepared(options, strict=self._strict_response_validation)
        while True:
            try:
                return original(self, cast_to, options, **more)
            except openai.APIStatusError as error:
                options = _excused(error, options)

    return request


def _async(original: Callable[..., Any]) -> Callable[..., Any]:
    async def request(self: Any, cast_to: Any, options: Any, **more: Any) -> Any:
        options = _prepared(options, strict=self._strict_response_validation)
        while True:
            try:
                return await original(self, cast_to, options, **more)
            except openai.APIStatusError as error:
                options = _excused(error, options)

    return request


def pytest_configure() -> None:
    """Stand between the client and its HTTP."""
    SyncAPIClient.request = _sync(SyncAPIClient.request)  # type: ignore[method-assign]
    AsyncAPIClient.request = _async(AsyncAPIClient.request)  # type: ignore[method-assign]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Judge a test when it has run."""
    if call.when == "setup":
        CURRENT[0] = Verdict()
    report = yield
    if call.when == "call" or report.failed:
        verdict = CURRENT[0]
        why = "" if call.excinfo is None else f"{call.excinfo.typename}: {call.excinfo.value}"[:600]
        if any(status >= 500 for status in verdict.statuses):
            outcome = "failed"
        elif verdict.not_offered:
            outcome = "not offered"
        elif report.failed:
            outcome = "failed"
        else:
            outcome = "passed without" if verdict.refused else "passed"
        TOLD.append(
            {
                "test": item.nodeid,
                "file": item.nodeid.partition("::")[0].removeprefix("tests/api_resources/"),
                "outcome": outcome,
                "why": why,
                "refused": verdict.refused,
                "not_offered": verdict.not_offered,
            }
        )
        if outcome == "not offered":
            report.outcome, report.longrepr = "passed", None
    return report


def pytest_sessionfinish() -> None:
    """Write what was judged."""
    Path(os.environ["SUITE_REPORT"]).write_text(json.dumps(TOLD))
    HTTP.close()
