"""The examples of docs/clients.md that need no other package than ours, against a server as its users start it.

`python -m tests.clients` runs all of them: in Node, with LangChain, by curl itself.
"""

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest
import uvicorn

from app.api.application import create_app
from app.bootstrap import open_container, upgrade_database
from app.domain.models.access import NewKey
from app.settings import Settings
from tests.api.serving import settings_of
from tests.clients.guide import KEY, PLACE, Example, curl_request, examples
from tests.clients.server import Address

EXAMPLES = examples()
OURS = [example for example in EXAMPLES if example.language == "python" and "langchain" not in example.code]
CURL = [example for example in EXAMPLES if example.language == "sh"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """The demo agents on a real port, in a thread: processes of its own take longer than what is tested."""
    settings = settings_of(f"sqlite:///{tmp_path_factory.mktemp('guide')}/guide.db")
    secret = asyncio.run(prepared(settings))
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app(settings=settings), log_config=None, lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="guide")
        thread.start()
        try:
            # Requests wait in the listener until it has started.
            yield Address(f"http://127.0.0.1:{listener.getsockname()[1]}", secret, secret)
        finally:
            server.should_exit = True
            thread.join(30)
    assert not thread.is_alive()


async def prepared(settings: Settings) -> str:
    """Make the database and a key."""
    await upgrade_database(settings)
    async with open_container(settings) as container:
        return (await container.keys.create(NewKey(organization_id="acme", name="guide"))).secret


def test_every_client_has_its_example() -> None:
    assert [(example.title, example.language) for example in EXAMPLES] == [
        ("OpenAI's own client, in Python", "python"),
        ("OpenAI's own client, in Node", "js"),
        ("The Agents SDK", "python"),
        ("LangChain", "python"),
        ("The AI SDK", "js"),
        ("AG-UI", "js"),
        ("curl", "sh"),
        ("curl", "sh"),
    ]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.title)
def test_every_example_names_a_server_and_a_key(example: Example) -> None:
    filled = example.at(Address("http://127.0.0.1:1", "sk-mine", "sk-other"))
    assert "http://127.0.0.1:1/" in filled
    assert "sk-mine" in filled
    assert PLACE not in filled
    assert KEY not in filled


def test_an_example_without_a_key_is_not_run() -> None:
    with pytest.raises(ValueError, match="does not hold sk-…"):
        Example("a", "sh", f"curl {PLACE}/v1/models").at(Address("http://127.0.0.1:1", "sk-mine", "sk-other"))


@pytest.mark.parametrize("example", OURS, ids=lambda example: example.title)
def test_a_python_example(example: Example, address: Address, tmp_path: Path) -> None:
    file = tmp_path / "example.py"
    file.write_text(example.at(address))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    environment["OPENAI_AGENTS_DISABLE_TRACING"] = "1"
    done = subprocess.run(
        [sys.executable, str(file)], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert not done.returncode, done.stderr
    assert example.is_answered_by(done.stdout)


async def test_the_curl_examples(address: Address) -> None:
    async with httpx2.AsyncClient(timeout=30) as http:
        whole, stream = [await http.request(**curl_request(example.at(address))) for example in CURL]
    assert whole.status_code == 200, whole.text
    assert stream.status_code == 200, stream.text
    for example, reply in zip(CURL, (whole, stream), strict=True):
        assert example.is_answered_by(reply.text)
    assert not CURL[0].is_answered_by(stream.text)


async def test_an_example_needs_its_key(address: Address) -> None:
    example = CURL[0].at(Address(address.base_url, "sk-nobody", address.admin_key))
    async with httpx2.AsyncClient() as http:
        assert (await http.request(**curl_request(example))).status_code == 401


def test_what_curl_is_told() -> None:
    told = curl_request("curl -sN http://a/b -X PUT -H 'one: 1' -H two:2")
    assert told == {"method": "PUT", "headers": {"one": "1", "two": "2"}, "url": "http://a/b"}
    assert curl_request("curl http://a -d x")["method"] == "POST"
    with pytest.raises(ValueError, match="--form"):
        curl_request("curl --form a=b http://a")
    with pytest.raises(ValueError, match="wget"):
        curl_request("wget http://a")
