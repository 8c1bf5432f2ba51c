"""`/api/chat/stream` and `/api/runs`: a stream that clients may drop, resume and cancel."""

from collections.abc import Callable
from typing import Any

import pytest
from agents import function_tool

from app.api.application import stop_streams
from tests.api.asgi import frames_of, kept, last_event_id, told
from tests.api.serving import Chatter, Gate, Served, calls, says, scripted


def gated(gate: Gate, *after: Any) -> Any:
    """An agent that stands at the gate before it answers."""
    return scripted(
        calls("wait_at_gate"), *(after or (says("through the gate"),)), tools=[function_tool(gate.wait_at_gate)]
    )


async def test_a_stream(demo: Served) -> None:
    chatter = await demo.session()
    async with chatter.stream("What is the weather in Oslo?") as stream:
        assert await stream.head() == 200
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["cache-control"] == "no-cache"
        assert stream.headers["x-accel-buffering"] == "no"
        assert "content-length" not in stream.headers
        frames = await stream.frames_until("run.completed")
        await stream.body()
    run_id = stream.headers["x-run-id"]
    events = [frame for frame in frames if frame.event is not None]
    assert [frame.number for frame in events] == list(range(1, len(events) + 1))
    assert all(frame.data["type"] == frame.event for frame in events)
    # Events that are told before they are on disk have no id; the last one, whose transaction ends the run, has.
    assert {frame.id for frame in events} <= {None, *(f"{run_id}:{frame.number}" for frame in events)}
    assert last_event_id(frames) == events[-1].id == f"{run_id}:{len(events)}"
    first, last = frames[0], frames[-1]
    assert (first.event, first.data["runId"], first.data["conversationId"]) == (
        "run.started",
        run_id,
        chatter.conversation_id,
    )
    text = "".join(frame.data["delta"] for frame in frames if frame.event == "text.delta")
    assert last.data["output"] == text
    assert last.data["usage"]["requests"] == 2
    tool = next(frame for frame in frames if frame.event == "tool.output")
    assert tool.data["name"] == "get_weather"
    stored = (await chatter.ask("GET", f"/api/runs/{run_id}")).json()
    assert stored["usage"] == last.data["usage"]
    assert stored["output"] == text


async def test_a_failed_run_ends_its_stream_with_the_envelope(serve: Callable[..., Any]) -> None:
    served = await serve(scripted(RuntimeError("the secret of the house")))
    chatter = await served.session()
    async with chatter.stream() as stream:
        assert await stream.head() == 200
        frames = await stream.frames_until("run.failed")
    assert frames[-1].data["error"] == {
        "message": "The agent's own code raised an error. The server's log has it under the run's id.",
        "type": "server_error",
        "param": None,
        "code": "agent_failed",
    }
    assert b"secret" not in b"".join(stream.bodies)


async def test_a_dropped_client_loses_nothing(serve: Callable[..., Any]) -> None:
    gate = Gate()
    served = await serve(gated(gate))
    chatter = await served.session()
    async with chatter.stream() as stream:
        await stream.head()
        before = await stream.frames_until("tool.started")
    run_id = stream.headers["x-run-id"]
    assert (await chatter.ask("GET", f"/api/runs/{run_id}")).json() == {
        "runId": run_id,
        "conversationId": chatter.conversation_id,
        "status": "running",
    }

    after_id = last_event_id(before)
    (called,) = [data["sequence"] for data in told(before) if data["type"] == "usage"]
    assert int(after_id.partition(":")[2]) >= called  # a tool starts only when the call that asks for it is on disk
    async with chatter.events(run_id, last_event_id=after_id) as resumed:  # live, while the tool still waits
        assert await resumed.head() == 200
        gate.open.set()
        after = await resumed.frames_until("run.completed")
        await resumed.body()
    numbers = [data["sequence"] for data in kept([*before, *after])]
    assert numbers == list(range(1, len(numbers) + 1))
    assert after[-1].data["output"] == "through the gate"

    (row,) = served.rows("SELECT status, last_sequence FROM agent_runs")
    assert row == {"status": "completed", "last_sequence": numbers[-1]}
    async with chatter.events(run_id, last_event_id=after_id) as stored:  # the same from the log
        from_log = await stored.frames_until("run.completed")
    assert told(from_log) == told(after)
    assert [frame.id for frame in from_log] == [f"{run_id}:{data['sequence']}" for data in told(after)]


async def test_a_run_completes_although_nobody_reads(serve: Callable[..., Any]) -> None:
    gate = Gate()
    served = await serve(gated(gate))
    chatter = await served.session()
    async with chatter.stream() as stream:
        await stream.head()
    gate.open.set()
    async with chatter.events(stream.headers["x-run-id"]) as reader:
        await reader.head()
        await reader.frames_until("run.completed")
    view = (await chatter.ask("GET", f"/api/conversations/{chatter.conversation_id}")).json()
    assert [message["text"] for message in view["messages"]] == ["hello", "through the gate"]


async def test_several_readers_of_one_run(serve: Callable[..., Any]) -> None:
    gate = Gate()
    chatter = await (await serve(gated(gate))).session()
    async with chatter.stream() as first:
        await first.head()
        await gate.reached.wait()
        async with chatter.events(first.headers["x-run-id"]) as second:
            await second.head()
            gate.open.set()
            one, two = await first.frames_until("run.completed"), await second.frames_until("run.completed")
    assert told(one) == told(two)
    assert last_event_id(one) == last_event_id(two)


async def test_reading_on_by_number(demo: Served) -> None:
    chatter = await demo.session()
    run_id = (await chatter.chat("hello")).json()["runId"]
    async with chatter.events(run_id) as everything:
        await everything.head()
        frames = await everything.frames_until("run.completed")
    for after in range(len(frames)):
        async with chatter.events(run_id, f"&after={after}") as rest:
            assert await rest.head() == 200
            assert await rest.frames_until("run.completed") == frames[after:]
    async with chatter.events(run_id, "&after=0", last_event_id=f"{frames[0].number}") as rest:
        await rest.head()
        assert await rest.frames_until("run.completed") == frames[1:]  # the header wins
    async with chatter.events(run_id, f"&after={frames[-1].number}") as rest:
        assert await rest.head() == 204  # a browser's EventSource stops asking
    async with chatter.events(run_id, "&after=10000") as rest:  # of an event that was told early and lost
        assert await rest.frames_until("run.completed") == frames[-1:]


@pytest.mark.parametrize("wrong", ["run_00:1", "x", "run_00", ":", "1e3", "-1", "9" * 30])
async def test_event_ids_of_nothing(demo: Served, wrong: str) -> None:
    chatter = await demo.session()
    run_id = (await chatter.chat("hello")).json()["runId"]
    async with chatter.events(run_id, last_event_id=wrong) as reader:
        assert await reader.head() == 400
        assert b'"param":"Last-Event-ID"' in await reader.body()


@pytest.mark.parametrize("wrong", ["-1", "x", "1.5", str(1 << 31), "86677886613006024704"])
async def test_numbers_that_are_none(demo: Served, wrong: str) -> None:
    chatter = await demo.session()
    async with chatter.events("run_00", f"&after={wrong}") as reader:
        assert await reader.head() == 400
        assert b'"param":"after"' in await reader.body()


async def test_heartbeats_while_a_tool_is_silent(serve: Callable[..., Any]) -> None:
    gate = Gate()
    chatter = await (await serve(gated(gate), server={"heartbeat_s": 0.05})).session()
    async with chatter.stream() as stream:
        await stream.head()
        await stream.frames_until("keep-alive")
        seen = len(stream.bodies)
        while len(stream.bodies) < seen + 2:  # it goes on beating
            assert await stream.chunk() == b": keep-alive\n\n"
        gate.open.set()
        frames = await stream.frames_until("run.completed")
    numbers = [data["sequence"] for data in told(frames)]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_a_queued_run_can_be_found_and_cancelled(serve: Callable[..., Any]) -> None:
    gate = Gate()
    served = await serve(gated(gate, says("first"), says("never")), server={"heartbeat_s": 0.05})
    chatter = await served.session()
    async with chatter.stream("one") as first, chatter.stream("two") as second:
        await first.head()
        await gate.reached.wait()
        await second.head()
        assert [frame.comment for frame in await second.frames_until("keep-alive")] == ["keep-alive"]
        queued = second.headers["x-run-id"]
        cancelling = served.request("POST", f"/api/runs/{queued}/cancel?sessionId={chatter.session_id}", json_body=None)
        async with cancelling as cancel:
            gate.open.set()
            assert await cancel.head() == 200
        frames = await second.frames_until("run.cancelled")
        await first.frames_until("run.completed")
    assert frames[-1].data["reason"] == "user"


async def test_cancelling_a_run(serve: Callable[..., Any]) -> None:
    gate = Gate()
    served = await serve(gated(gate))
    chatter = await served.session()
    async with chatter.stream() as stream:
        await stream.head()
        await gate.reached.wait()
        run_id = stream.headers["x-run-id"]
        reply = await chatter.ask("POST", f"/api/runs/{run_id}/cancel")
        frames = await stream.frames_until("run.cancelled")
    assert reply.status_code == 200
    assert (reply.json()["status"], reply.json()["error"]["code"]) == ("cancelled", "run_cancelled")
    assert frames[-1].data["usage"] == reply.json()["usage"]
    assert [item.get("type", item.get("role")) for item in served.history(chatter.conversation_id)] == [
        "user",
        "function_call",
        "function_call_output",
    ]
    again = await chatter.ask("POST", f"/api/runs/{run_id}/cancel")
    assert again.json() == reply.json()


async def test_a_cancelled_run_answers_its_waiting_client(serve: Callable[..., Any]) -> None:
    gate = Gate()
    served = await serve(gated(gate))
    chatter = await served.session()
    async with served.request(
        "POST", "/api/chat", json_body={"sessionId": chatter.session_id, "message": "hi"}
    ) as waiting:
        await gate.reached.wait()
        (row,) = served.rows("SELECT id FROM agent_runs")
        await chatter.ask("POST", f"/api/runs/{row['id']}/cancel")
        assert await waiting.head() == 409
        assert b'"run_id":"run_' in await waiting.body()


async def test_cancelling_what_has_ended(demo: Served) -> None:
    chatter = await demo.session()
    answer = (await chatter.chat("hello")).json()
    reply = await chatter.ask("POST", f"/api/runs/{answer['runId']}/cancel")
    assert reply.json() == answer


async def test_a_run_of_another_process_is_read_and_cancelled_here(serve: Callable[..., Any]) -> None:
    gate = Gate()
    there = await serve(gated(gate), runs={"lease_s": 0.5})
    here = await serve(scripted(says("never")))
    chatter = await there.session()
    reader = Chatter(here, chatter.session_id, chatter.conversation_id)
    async with chatter.stream() as stream:
        await stream.head()
        await gate.reached.wait()
        run_id = stream.headers["x-run-id"]
        async with reader.events(run_id) as follower:
            await follower.frames_until("tool.started")
            reply = await reader.ask("POST", f"/api/runs/{run_id}/cancel")
            followed = await follower.frames_until("run.cancelled")
        frames = await stream.frames_until("run.cancelled")
    assert reply.status_code in {200, 202}  # by whether the other process was as quick as the reply
    assert told(followed) == told(frames)
    assert (await reader.ask("GET", f"/api/runs/{run_id}")).json()["status"] == "cancelled"


async def test_a_server_that_stops_ends_its_streams(serve: Callable[..., Any]) -> None:
    gate = Gate()
    served = await serve(gated(gate))
    chatter = await served.session()
    async with chatter.stream() as stream:
        before = await stream.frames_until("tool.started")
        stop_streams(served.app)
        assert "run.completed" not in [frame.event for frame in frames_of(await stream.body())]
    assert (await chatter.ask("GET", f"/api/runs/{told(before)[0]['runId']}")).json()["status"] == "running"
    gate.open.set()


@pytest.mark.parametrize("other", [{"tenantId": "beta", "userId": "ada"}, {"tenantId": "acme", "userId": "bob"}])
async def test_runs_of_others_do_not_exist(serve: Callable[..., Any], other: dict[str, str]) -> None:
    gate = Gate()
    served = await serve(gated(gate))
    ada, stranger = await served.session(tenantId="acme", userId="ada"), await served.session(**other)

    async def refused(run_id: str) -> None:
        for method, path in [("GET", ""), ("GET", "/events"), ("POST", "/cancel"), ("GET", "/approvals")]:
            reply = await stranger.ask(method, f"/api/runs/{run_id}{path}")
            assert (reply.status_code, reply.json()["error"]["code"]) == (404, "run_not_found")

    async with ada.stream() as stream:
        await stream.head()
        await refused(stream.headers["x-run-id"])  # while it runs
        gate.open.set()
        await stream.frames_until("run.completed")
    await refused(stream.headers["x-run-id"])
    await refused("run_0")


async def test_deleting_the_conversation_of_a_running_run(serve: Callable[..., Any]) -> None:
    gate = Gate()
    chatter = await (await serve(gated(gate))).session()
    async with chatter.stream() as stream:
        await stream.head()
        await gate.reached.wait()
        reply = await chatter.ask("DELETE", f"/api/conversations/{chatter.conversation_id}")
        assert reply.status_code == 200
        gate.open.set()
        frames = await stream.frames_until("error")
        await stream.body()
    assert frames[-1].id is None
    assert frames[-1].data["error"]["code"] == "run_not_found"
