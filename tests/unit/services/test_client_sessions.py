import pytest

from app.domain.errors import InvalidInput, ProviderTimeout, SessionNotFound, UnknownAgent
from app.domain.models.conversations import Caller, ClientSession
from app.services.client_sessions import ClientSessionService
from tests.unit.services.fakes import ANNA, NOON, Clock, Conversations, Provider, Sessions


class Bench:
    """The service over memory."""

    def __init__(self, conversation: str | Exception | None = None) -> None:
        self.sessions, self.conversations = Sessions(), Conversations()
        self.service = ClientSessionService(self.sessions, self.conversations, Provider(conversation), Clock())


async def test_a_session_has_a_conversation_of_its_own() -> None:
    bench = Bench()
    opened = await bench.service.open("acme", "anna", "coder")
    assert opened == ClientSession(opened.id, ANNA, "coder", "conv_1", NOON)
    assert opened.id.startswith("sess_")
    assert await bench.service.get(opened.id) == opened
    made = bench.conversations.stored["conv_1"]
    assert (made.organization_id, made.user_id, made.agent, made.provider) == ("acme", "anna", "coder", "openai")
    assert made.provider_conversation_id is None
    assert (await bench.service.open("acme", "anna", "coder")).conversation_id == "conv_2"


async def test_no_agent_means_the_default_one_and_the_provider_may_hold_the_history() -> None:
    bench = Bench("conv_at_openai")
    opened = await bench.service.open("acme", "x" * 255)
    assert opened.agent == "helper"
    assert bench.conversations.stored["conv_1"].provider_conversation_id == "conv_at_openai"
    assert opened.caller == Caller("acme", "x" * 255)


@pytest.mark.parametrize(
    ("organization", "user", "param"),
    [
        ("", "anna", "organization_id"),
        ("a:b", "anna", "organization_id"),
        ("acme", "", "user_id"),
        ("acme", "x" * 256, "user_id"),
        ("acme", "nul\x00", "user_id"),
        ("acme", "half\ud83d", "user_id"),
        ("acme", "new\nline", "user_id"),
    ],
)
async def test_malformed_callers_are_refused(organization: str, user: str, param: str) -> None:
    bench = Bench()
    with pytest.raises(InvalidInput) as caught:
        await bench.service.open(organization, user)
    assert caught.value.param == param
    assert bench.conversations.stored == bench.sessions.stored == {}


async def test_nothing_is_written_for_an_unknown_agent_or_when_the_provider_fails() -> None:
    bench = Bench(ProviderTimeout("The provider did not answer."))
    with pytest.raises(UnknownAgent):
        await bench.service.open("acme", "anna", "nobody")
    with pytest.raises(ProviderTimeout):
        await bench.service.open("acme", "anna")
    assert bench.conversations.stored == bench.sessions.stored == {}
    with pytest.raises(SessionNotFound):
        await bench.service.get("sess_nope")
