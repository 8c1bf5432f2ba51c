"""Tool calls that wait for a person: the waiting run, its events, and the decisions."""

from collections.abc import Callable
from typing import Any

import pytest
from agents import function_tool

from tests.api.asgi import Frame, frames_of, last_event_id, told
from tests.api.serving import Chatter, Served, calls, says, scripted


@pytest.fixture
def paid() -> list[int]:
    """What the tool was really called with."""
    return []


@pytest.fixture
async def shop(serve: Callable[..., Any], paid: list[int]) -> Served:
    """An agent that asks before it pays, once in each of two runs."""

    @function_tool(needs_approval=True)
    def pay(amount: int) -> str:
        """Pay."""
        paid.append(amount)
        return f"paid {amount}"

    script = [
        *(calls("pay", '{"amount": 5}', "call_a"), says("Done.")),
        *(calls("pay", '{"amount": 6}', "call_b"), says("Done again.")),
    ]
    return await serve(scripted(*script, tools=[pay]), server={"heartbeat_s": 0.05})


async def decide(chatter: Chatter, run_id: str, *decisions: Any) -> Any:
    """Decide on requests of a run."""
    return await chatter.served.http.post(
        f"/api/runs/{run_id}/approvals",
        json={"decisions": list(decisions)},
        headers={"X-Session-Id": chatter.session_id},
    )


async def ended(chatter: Chatter, run_id: str) -> Any:
    """Read a run as a browser does, coming again whenever a stream ends; return how it ended."""
    read: list[Frame] = []
    while not (read and str(read[-1].event) in {"run.completed", "run.cancelled", "run.failed"}):
        async with chatter.events(run_id, last_event_id=last_event_id(read)) as reader:
            assert await reader.head() == 200
            read.extend(frames_of(await reader.body()))
    return (await chatter.ask("GET", f"/api/runs/{run_id}")).json()


YES = {"callId": "call_a", "approve": True}
NO = {"callId": "call_a", "approve": False, "message": "Too much."}


async def test_a_run_waits_and_goes_on(shop: Served, paid: list[int]) -> None:
    chatter = await shop.session(userId="ada")
    waiting = await chatter.chat("pay 5")
    assert waiting.status_code == 202
    asked = waiting.json()
    run_id = asked["runId"]
    (request,) = asked["approvals"]
    assert (asked["status"], asked["output"], asked["response"], asked["error"]) == ("waiting", None, None, None)
    assert request == {
        "callId": "call_a",
        "step": request["step"],
        "name": "pay",
        "arguments": '{"amount": 5}',
        "agent": "helper",
        "scope": "",
    }
    assert (await chatter.ask("GET", f"/api/runs/{run_id}")).json() == asked
    assert paid == []

    (listed,) = (await chatter.ask("GET", f"/api/runs/{run_id}/approvals")).json()["data"]
    assert listed.items() >= request.items()
    assert (listed["object"], listed["runId"], listed["conversationId"]) == (
        "approval",
        run_id,
        chatter.conversation_id,
    )
    assert (listed["state"], listed["decidedBy"], listed["decidedAt"]) == ("pending", None, None)
    assert listed["expiresAt"] > listed["requestedAt"]
    assert (await chatter.ask("GET", "/api/approvals")).json()["data"] == [listed]

    reply = await decide(chatter, run_id, YES)
    assert (reply.status_code, reply.json()["undecided"]) == (200, 0)
    assert reply.json()["status"] in {"running", "completed"}  # by how quick it is
    end = await ended(chatter, run_id)
    assert (end["status"], end["output"], end["approvals"]) == ("completed", "Done.", [])
    assert paid == [5]
    (decided,) = (await chatter.ask("GET", f"/api/runs/{run_id}/approvals")).json()["data"]
    assert (decided["state"], decided["decidedBy"], decided["always"]) == ("approved", "ada", False)
    assert decided["decidedAt"] >= decided["requestedAt"]
    assert decided["expiresAt"] is None
    assert (await chatter.ask("GET", "/api/approvals")).json() == {"object": "list", "data": []}


async def test_a_stream_ends_when_its_run_waits(shop: Served) -> None:
    chatter = await shop.session()
    async with chatter.stream("pay 5") as stream:
        first = await stream.frames_until("run.waiting")
        await stream.body()  # it ends by itself
    run_id = stream.headers["x-run-id"]
    assert [data["type"] for data in told(first)][-2:] == ["approval.requested", "run.waiting"]
    assert told(first)[-1]["approvals"] == 1
    assert last_event_id(first) == f"{run_id}:{told(first)[-1]['sequence']}"

    async with chatter.events(run_id, last_event_id=last_event_id(first)) as reader:
        assert await reader.head() == 200
        await reader.frames_until("keep-alive")  # it waits with the run
        assert told(await reader.frames_until("keep-alive")) == []
        await decide(chatter, run_id, YES)
        rest = await reader.frames_until("run.completed")
        await reader.body()
    assert told(rest)[0]["type"] == "run.started"
    numbers = [data["sequence"] for data in told([*first, *rest])]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_a_refusal_is_told_to_the_model(shop: Served, paid: list[int]) -> None:
    chatter = await shop.session()
    run_id = (await chatter.chat("pay 5")).json()["runId"]
    await decide(chatter, run_id, NO)
    assert (await ended(chatter, run_id))["status"] == "completed"
    assert paid == []
    outputs = [item["output"] for item in shop.history(chatter.conversation_id) if "output" in item]
    assert outputs == ["Too much."]


async def test_deciding_twice(shop: Served) -> None:
    chatter = await shop.session()
    run_id = (await chatter.chat("pay 5")).json()["runId"]
    await decide(chatter, run_id, YES)
    again = (await decide(chatter, run_id, YES)).json()
    assert (set(again), again["undecided"]) == ({"runId", "undecided", "status"}, 0)
    reply = await decide(chatter, run_id, NO)
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "already_decided")


async def test_a_run_that_asks_for_nothing(demo: Served) -> None:
    chatter = await demo.session()
    run_id = (await chatter.chat("hello")).json()["runId"]
    assert (await chatter.ask("GET", f"/api/runs/{run_id}/approvals")).json() == {"object": "list", "data": []}
    reply = await decide(chatter, run_id, YES)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "decisions[0].callId"


async def test_a_waiting_run_is_cancelled(shop: Served, paid: list[int]) -> None:
    chatter = await shop.session()
    run_id = (await chatter.chat("pay 5")).json()["runId"]
    reply = await chatter.ask("POST", f"/api/runs/{run_id}/cancel")
    assert (reply.status_code, reply.json()["status"]) == (200, "cancelled")
    assert (await chatter.ask("GET", "/api/approvals")).json()["data"] == []
    reply = await decide(chatter, run_id, YES)
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "not_waiting")
    assert paid == []
    # The next message is answered: the history has no open call.
    assert (await chatter.chat("go on", options={"onBusy": "reject"})).json()["status"] == "completed"


async def test_a_waiting_run_keeps_its_conversation_busy(shop: Served) -> None:
    chatter = await shop.session()
    await chatter.chat("pay 5")
    reply = await chatter.chat("and now?", options={"onBusy": "reject"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "conversation_busy")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "decisions"),
        ({"decisions": []}, "decisions"),
        ({"decisions": [YES] * 101}, "decisions"),
        ({"decisions": YES}, "decisions"),
        ({"decisions": [{"approve": True}]}, "decisions.0.callId"),
        ({"decisions": [{"callId": "call_a"}]}, "decisions.0.approve"),
        ({"decisions": [{"callId": "", "approve": True}]}, "decisions.0.callId"),
        ({"decisions": [{"callId": 1, "approve": True}]}, "decisions.0.callId"),
        ({"decisions": [{"callId": "call_a", "approve": "yes"}]}, "decisions.0.approve"),
        ({"decisions": [{"callId": "call_a", "approve": True, "always": 1}]}, "decisions.0.always"),
        ({"decisions": [{"callId": "call_a", "approve": True, "message": 1}]}, "decisions.0.message"),
        ({"decisions": [{"callId": "call_a", "approve": True, "why": "x"}]}, "decisions.0.why"),
        ({"decisions": [{"callId": "call_z", "approve": True}]}, "decisions[0].callId"),
        ({"decisions": [YES, YES]}, "decisions[1].callId"),
    ],
)
async def test_decisions_that_are_none(shop: Served, body: dict[str, Any], param: str) -> None:
    chatter = await shop.session()
    run_id = (await chatter.chat("pay 5")).json()["runId"]
    reply = await shop.http.post(
        f"/api/runs/{run_id}/approvals", json=body, headers={"X-Session-Id": chatter.session_id}
    )
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert (await chatter.ask("GET", f"/api/runs/{run_id}")).json()["status"] == "waiting"


@pytest.mark.parametrize("other", [{"tenantId": "beta", "userId": "ada"}, {"tenantId": "acme", "userId": "bob"}])
async def test_approvals_of_others_do_not_exist(shop: Served, paid: list[int], other: dict[str, str]) -> None:
    ada, stranger = await shop.session(tenantId="acme", userId="ada"), await shop.session(**other)
    run_id = (await ada.chat("pay 5")).json()["runId"]
    assert (await stranger.ask("GET", "/api/approvals")).json()["data"] == []
    for reply in (
        await stranger.ask("GET", f"/api/runs/{run_id}/approvals"),
        await decide(stranger, run_id, YES),
    ):
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "run_not_found")
    assert paid == []
