"""LangChain's `ChatOpenAI`, over chat completions and over responses, against a running server.

    python langchain_chat.py        with BASE_URL and API_KEY; needs langchain-openai, and nothing of this project

The server has the demo agents over the fake OpenAI, whose model answers `echo N: TEXT` and calls `NAME` where the text
holds `call:NAME {json}`.
"""

import asyncio
import json
import os
from collections.abc import Callable
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

BASE_URL = os.environ["BASE_URL"] + "/v1"
API_KEY = os.environ["API_KEY"]
MODELS = ("poet", "demo", "gpt-4.1-mini")


class City(BaseModel):
    """A city."""

    name: str
    country: str


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def invoked(chat: ChatOpenAI) -> None:
    """A plain answer, with its usage."""
    answer = chat.invoke([SystemMessage("Be brief."), HumanMessage("hello there")])
    assert answer.text == "echo 1: hello there", answer
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["input_tokens"] > 0
    assert answer.usage_metadata["output_tokens"] > 0, answer.usage_metadata
    assert answer.response_metadata["model_name"], answer.response_metadata


def remembered(chat: ChatOpenAI) -> None:
    """A history that the client keeps."""
    first = chat.invoke([HumanMessage("one")])
    answer = chat.invoke([HumanMessage("one"), first, HumanMessage("two")])
    assert answer.text == "echo 2: two", answer


def streamed(chat: ChatOpenAI) -> None:
    """A streamed answer, in parts, with its usage at the end."""
    chunks = list(chat.stream("a few words to be streamed"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    assert whole.text == "echo 1: a few words to be streamed", whole
    assert len(chunks) > 3, chunks
    assert whole.usage_metadata is not None, whole


def called(chat: ChatOpenAI) -> None:
    """A tool of the caller: the model calls it, and answers with its output."""
    bound = chat.bind_tools([add])
    asked: list[Any] = [HumanMessage('call:add {"a": 2, "b": 3}')]
    call = bound.invoke(asked)
    assert isinstance(call, AIMessage)
    assert [(made["name"], made["args"]) for made in call.tool_calls] == [("add", {"a": 2, "b": 3})], call
    outputs = [ToolMessage(str(add.invoke(made["args"])), tool_call_id=made["id"]) for made in call.tool_calls]
    answer = bound.invoke([*asked, call, *outputs])
    assert answer.text == "5", answer


def called_in_a_stream(chat: ChatOpenAI) -> None:
    """A tool call that is streamed."""
    chunks = list(chat.bind_tools([add]).stream('call:add {"a": 2, "b": 3}'))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    assert [(made["name"], made["args"]) for made in whole.tool_calls] == [("add", {"a": 2, "b": 3})], whole


def structured(chat: ChatOpenAI) -> None:
    """An answer in the form of a class, by a schema and by a call."""
    for method in ("json_schema", "function_calling"):
        city = chat.with_structured_output(City, method=method).invoke("Lisbon")
        assert isinstance(city, City), city
    raw = chat.with_structured_output(City, method="json_schema", include_raw=True).invoke("Lisbon")
    assert raw["parsing_error"] is None, raw
    assert set(json.loads(raw["raw"].text)) == {"name", "country"}, raw


async def awaited(chat: ChatOpenAI) -> None:
    """The same, asynchronously, several at once."""
    answers = await chat.abatch(["one", "two", "three"])
    assert [answer.text for answer in answers] == ["echo 1: one", "echo 1: two", "echo 1: three"]


def embedded(_chat: ChatOpenAI) -> None:
    """Embeddings of an upstream model."""
    embeddings = OpenAIEmbeddings(
        model="text-embedding-3-small", base_url=BASE_URL, api_key=API_KEY, check_embedding_ctx_length=False
    )
    assert [len(vector) for vector in embeddings.embed_documents(["one", "two"])] == [1536, 1536]


def continued(chat: ChatOpenAI) -> None:
    """A history that the server keeps: `previous_response_id`, as LangChain sends it by itself."""
    keeping = chat.model_copy(update={"use_previous_response_id": True})
    first = keeping.invoke([HumanMessage("one")])
    assert first.response_metadata["id"].startswith("resp_"), first
    answer = keeping.invoke([HumanMessage("one"), first, HumanMessage("two")])
    assert answer.text == "echo 2: two", answer


CHECKS: tuple[Callable[[ChatOpenAI], Any], ...] = (
    invoked,
    remembered,
    streamed,
    called,
    called_in_a_stream,
    structured,
    awaited,
)


async def main() -> None:
    """Check both modes with each model; in one event loop, since LangChain's clients share their connections."""
    for model in MODELS:
        for by_responses in (False, True):
            chat = ChatOpenAI(
                model=model,
                base_url=BASE_URL,
                api_key=API_KEY,
                use_responses_api=by_responses,
                max_retries=0,
                stream_usage=True,
            )
            for check in (*CHECKS, *((continued,) if by_responses else (embedded,))):
                done = check(chat)
                if done is not None:
                    await done
                print(f"ok - {model}, {'responses' if by_responses else 'chat completions'}: {check.__name__}")


if __name__ == "__main__":
    asyncio.run(main())
