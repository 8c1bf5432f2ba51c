"""Responses as the official client sees them: created, found again, followed, cancelled, deleted."""

import asyncio
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import openai
import pytest
from agents import function_tool

from app.domain.models.access import NewKey
from tests.api.openai.response_clients import WEATHER, add, check, client_of, resumed, streamed, wipe
from tests.api.serving import Gate, Served, calls, says, scripted

Serve = Callable[..., Any]


def conversations(served: Served) -> list[str]:
    return [row["id"] for row in served.rows("SELECT id FROM agent_conversations ORDER BY id")]


async def finished_days_ago(served: Served, days: int) -> None:
    """Let time pass."""
    (row,) = served.rows("SELECT finished_at FROM agent_runs")
    then = datetime.fromisoformat(row["finished_at"]) - timedelta(days=days)
    await served.change("UPDATE agent_runs SET finished_at = ?", then.isoformat(" "))


async def test_a_text_is_answered(serve: Serve) -> None:
    served = await serve(scripted(says("Hello there.")))
    client = client_of(served)
    response = await client.responses.create(
        model="helper",
        input="hi",
        instructions="Be short.",
        metadata={"ticket": "7"},
        temperature=0.5,
        text={"verbosity": "low"},
        user="u-1",
    )
    assert response.output_text == "Hello there."
    assert response.status == "completed"
    assert (response.instructions, response.metadata, response.temperature) == ("Be short.", {"ticket": "7"}, 0.5)
    assert response.text is not None
    assert response.text.verbosity == "low"
    assert response.user == "u-1"
    assert response.usage is not None
    assert response.usage.total_tokens > 0
    assert response.completed_at is not None
    assert response.completed_at >= response.created_at
    await check(client, response)


async def test_a_conversation_goes_on(serve: Serve) -> None:
    served = await serve(scripted(says("One."), says("Two."), says("Three.")))
    client = client_of(served)
    first = await client.responses.with_raw_response.create(model="helper", input="a")
    conversation = first.headers["x-conversation-id"]
    second = await client.responses.create(model="helper", input="b", previous_response_id=first.parse().id)
    assert second.previous_response_id == first.parse().id
    assert second.conversation is None
    third = await client.responses.create(model="helper", input="c", conversation={"id": conversation})
    assert third.conversation is not None
    assert third.conversation.id == conversation
    assert conversations(served) == [conversation]
    assert [item["content"] for item in served.history(conversation) if item.get("role") == "user"] == ["a", "b", "c"]
    await check(client, third)


async def test_an_earlier_response_is_followed_in_a_copy(serve: Serve) -> None:
    served = await serve(scripted(says("One."), says("Two."), says("Other.")))
    client = client_of(served)
    first = await client.responses.create(model="helper", input="a")
    await client.responses.create(model="helper", input="b", previous_response_id=first.id)
    other = await client.responses.with_raw_response.create(model="helper", input="c", previous_response_id=first.id)
    assert other.parse().output_text == "Other."
    fork = other.headers["x-conversation-id"]
    assert len(conversations(served)) == 2
    assert [item["content"] for item in served.history(fork) if item.get("role") == "user"] == ["a", "c"]


async def test_the_callers_tools_are_executed_by_the_caller(serve: Serve) -> None:
    served = await serve(
        scripted(calls("add", '{"a":1,"b":2}'), calls("weather", '{"city":"Oslo"}', "c2"), says("Cold."), tools=[add])
    )
    client = client_of(served)
    asked = await client.responses.create(model="helper", input="hi", tools=[WEATHER], tool_choice="auto")
    assert [(item.type, item.status) for item in asked.output if item.type in {"mcp_call", "function_call"}] == [
        ("mcp_call", "completed"),
        ("function_call", "completed"),
    ]
    await check(client, asked)
    output = {"type": "function_call_output", "call_id": "c2", "output": "3 degrees"}
    answered = await client.responses.create(
        model="helper", input=[output], previous_response_id=asked.id, tools=[WEATHER]
    )
    assert answered.output_text == "Cold."
    items = await client.responses.input_items.list(answered.id)
    assert [item.type for item in items.data] == ["function_call_output"]


async def test_items_of_a_response_can_be_given_back_by_a_client_that_keeps_the_history(serve: Serve) -> None:
    served = await serve(scripted(calls("add", '{"a":1,"b":2}'), says("Three."), says("Again three."), tools=[add]))
    client = client_of(served)
    first = await client.responses.create(model="helper", input="1+2?", store=False)
    given: list[Any] = [
        {"role": "user", "content": "1+2?"},
        *(item.model_dump(exclude_none=True) for item in first.output),
        {"role": "user", "content": [{"type": "input_text", "text": "Sure?"}]},
    ]
    second = await client.responses.with_raw_response.create(model="helper", input=given)
    history = served.history(second.headers["x-conversation-id"])
    assert [item.get("type", item.get("role")) for item in history] == [
        "user",
        "function_call",
        "function_call_output",
        "message",
        "user",
        "message",
    ]


async def test_a_repeated_request_gives_its_response_also_while_that_waits(serve: Serve) -> None:
    served = await serve(scripted(calls("wipe", '{"disk":"c"}'), says("Gone."), tools=[wipe]))
    client = client_of(served)
    conversation = (await client.conversations.create()).id
    keyed: Any = {"conversation": conversation, "extra_headers": {"Idempotency-Key": "one"}}
    asked = await client.responses.create(model="helper", input="wipe it", **keyed)
    assert [item.type for item in asked.output] == ["mcp_approval_request"]
    assert await client.responses.create(model="helper", input="wipe it", **keyed) == asked
    for key in ("two", "three"):
        keyed["extra_headers"] = {"Idempotency-Key": key}
        with pytest.raises(openai.BadRequestError) as waits:
            await client.responses.create(model="helper", input="go on", stream=key == "three", **keyed)
        assert (waits.value.code, waits.value.param) == ("approval_required", "input")
    answer: Any = {"type": "mcp_approval_response", "approval_request_id": asked.output[0].id, "approve": True}
    assert (await client.responses.create(model="helper", input=[answer])).output_text == "Gone."


async def test_an_approval_is_a_response_and_its_answer_another(serve: Serve) -> None:
    served = await serve(scripted(calls("wipe", '{"disk":"c"}'), says("Gone."), tools=[wipe]))
    client = client_of(served)
    asked = await client.responses.create(model="helper", input="wipe it")
    assert asked.status == "completed"
    (request,) = asked.output
    assert request.type == "mcp_approval_request"
    assert (request.name, json.loads(request.arguments), request.server_label) == ("wipe", {"disk": "c"}, "helper")
    with pytest.raises(openai.BadRequestError) as waits:
        await client.responses.create(model="helper", input="go on", previous_response_id=asked.id)
    assert waits.value.code == "approval_required"
    with pytest.raises(openai.BadRequestError) as waits:
        conversation = conversations(served)[0]
        await client.responses.create(model="helper", input="go on", conversation=conversation)
    assert waits.value.code == "approval_required"
    answer: Any = {"type": "mcp_approval_response", "approval_request_id": request.id, "approve": True}
    answered = await client.responses.create(model="helper", input=[answer], previous_response_id=asked.id)
    assert answered.id == f"{asked.id}_2"
    assert [(item.type, getattr(item, "approval_request_id", None)) for item in answered.output] == [
        ("mcp_call", request.id),
        ("message", None),
    ]
    assert answered.output_text == "Gone."
    await check(client, asked)
    await check(client, answered)
    assert await client.responses.create(input=[answer]) == answered  # the same answer again changes nothing
    items = await client.responses.input_items.list(answered.id)
    assert [(item.type, getattr(item, "approve", None)) for item in items.data] == [("mcp_approval_response", True)]
    with pytest.raises(openai.ConflictError):
        await client.responses.create(input=[{**answer, "approve": False}])
    with pytest.raises(openai.BadRequestError) as gone_on:
        await client.responses.create(model="helper", input="and now", previous_response_id=asked.id)
    assert answered.id in gone_on.value.message


async def test_a_rejection_reaches_the_model(serve: Serve) -> None:
    served = await serve(scripted(calls("wipe", '{"disk":"c"}'), says("Not gone."), tools=[wipe]))
    client = client_of(served)
    asked = await client.responses.create(model="helper", input="wipe it")
    answer: Any = {"type": "mcp_approval_response", "approval_request_id": asked.output[0].id, "approve": False}
    answered = await client.responses.create(model="helper", input=[{**answer, "reason": "too risky"}])
    assert answered.output_text == "Not gone."
    assert "too risky" in str(served.history(conversations(served)[0]))
    await check(client, answered)


async def test_answers_that_do_not_fit_are_refused(serve: Serve) -> None:
    both = [*calls("wipe", '{"disk":"c"}', "c1"), *calls("wipe", '{"disk":"d"}', "c2")]
    served = await serve(scripted(both, says("Gone."), tools=[wipe]))
    client = client_of(served)
    asked = await client.responses.create(model="helper", input="wipe them", temperature=0.5)
    ids = [item.id for item in asked.output]
    answers: list[Any] = [
        {"type": "mcp_approval_response", "approval_request_id": asked_id, "approve": True} for asked_id in ids
    ]
    unknown = {**answers[0], "approval_request_id": f"{ids[0]}x"}
    foreign = {**answers[0], "approval_request_id": f"mcpr_{'0' * 32}_c1"}
    for request, param in [
        ({"input": answers[:1]}, "input"),
        ({"input": [*answers, {"role": "user", "content": "hi"}]}, "input"),
        ({"input": [answers[0], unknown]}, "input[1].approval_request_id"),
        ({"input": [*answers, answers[0]]}, "input[2].approval_request_id"),
        ({"input": [foreign]}, "input[0]"),
        ({"input": [answers[0], foreign]}, "input[1]"),
        ({"input": answers, "instructions": "Else."}, "instructions"),
        ({"input": answers, "temperature": 1}, "temperature"),
        ({"input": answers, "metadata": {"a": "b"}}, "metadata"),
        ({"input": answers, "tools": [WEATHER]}, "tools"),
        ({"input": answers, "previous_response_id": f"resp_{'0' * 32}"}, "previous_response_id"),
        ({"input": answers, "conversation": "conv_other"}, "conversation"),
        ({"input": [{**answers[0], "approve": "yes"}]}, "input[0].approve"),
    ]:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(**request)
        assert refused.value.param == param, request
    gone = await client.responses.create(model="helper", input=answers, temperature=0.5, previous_response_id=asked.id)
    assert gone.output_text == "Gone."


async def test_in_the_background(serve: Serve) -> None:
    gate = Gate()
    served = await serve(scripted(calls("wait_at_gate"), says("Through."), tools=[function_tool(gate.wait_at_gate)]))
    client = client_of(served)
    response = await client.responses.create(model="helper", input="go", background=True)
    assert response.status in {"queued", "in_progress"}
    assert response.output == []
    assert response.usage is None
    assert response.background is True
    await gate.reached.wait()
    assert (await client.responses.retrieve(response.id)).status == "in_progress"
    reading = asyncio.create_task(served.http.get(f"/v1/responses/{response.id}?stream=true"))
    gate.open.set()
    body = (await reading).text
    assert [line for line in body.split("\n") if line.startswith("event:")][:3] == [
        "event: response.created",
        "event: response.queued",
        "event: response.in_progress",
    ]
    await check(client, await client.responses.retrieve(response.id))


async def test_cancelled(serve: Serve) -> None:
    gate = Gate()
    served = await serve(scripted(calls("wait_at_gate"), says("no"), tools=[function_tool(gate.wait_at_gate)]))
    client = client_of(served)
    response = await client.responses.create(model="helper", input="go", background=True)
    await gate.reached.wait()
    cancelled = await client.responses.cancel(response.id)
    assert cancelled.status == "cancelled"
    assert await client.responses.cancel(response.id) == cancelled
    events = await check(client, cancelled)
    assert events[-1].type == "response.incomplete"


async def test_a_response_that_waits_can_be_cancelled(serve: Serve) -> None:
    served = await serve(scripted(calls("wipe", '{"disk":"c"}'), tools=[wipe]))
    client = client_of(served)
    asked = await client.responses.create(model="helper", input="wipe it")
    assert (await client.responses.cancel(asked.id)).status == "completed"
    assert (await client.responses.retrieve(f"{asked.id}_2")).status == "cancelled"


async def test_not_stored(serve: Serve) -> None:
    served = await serve(scripted(says("One."), says("Two."), says("Three.")))
    client = client_of(served)
    plain = await client.responses.create(model="helper", input="hi", store=False)
    assert plain.output_text == "One."
    assert plain.model_dump()["store"] is False
    events = await streamed(client, model="helper", input="hi", store=False)
    assert events[-1].type == "response.completed"
    assert conversations(served) == []
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(plain.id)
    kept = await client.responses.create(model="helper", input="hi")
    assert kept.output_text == "Three."
    (conversation,) = conversations(served)
    assert conversation


async def test_what_is_not_stored_is_marked_so_that_it_goes_even_if_this_process_dies(serve: Serve) -> None:
    gate = Gate()
    steps = [says("One."), *(calls("wait_at_gate", call_id=f"c{n}") for n in range(4)), *([says("done")] * 4)]
    served = await serve(scripted(*steps, tools=[function_tool(gate.wait_at_gate)]))
    client = client_of(served)
    first = await client.responses.create(model="helper", input="a")
    (kept,) = conversations(served)
    chat: Any = {"model": "helper", "messages": [{"role": "user", "content": "hi"}]}
    asked = [
        client.responses.create(model="helper", input="b", store=False),
        client.responses.create(model="helper", input="c", store=False, previous_response_id=first.id),
        client.chat.completions.create(**chat),
        client.chat.completions.create(**chat, store=True),
    ]
    going = [asyncio.ensure_future(one) for one in asked]
    async with asyncio.timeout(10):
        while len(served.rows("SELECT id FROM agent_runs WHERE status = 'running'")) < 4:
            await asyncio.sleep(0.005)
        marked = served.rows("SELECT id FROM agent_conversations WHERE stateless IS NOT NULL")
        assert len(conversations(served)) == 5
        assert len(marked) == 3
        assert kept not in [row["id"] for row in marked]
        gate.open.set()
        await asyncio.gather(*going)
        while len(conversations(served)) > 2:
            await asyncio.sleep(0.005)


async def test_not_stored_in_a_conversation_that_stays(serve: Serve) -> None:
    served = await serve(scripted(says("One."), says("Two.")))
    client = client_of(served)
    first = await client.responses.with_raw_response.create(model="helper", input="a")
    conversation = first.headers["x-conversation-id"]
    second = await client.responses.create(model="helper", input="b", conversation=conversation, store=False)
    assert conversations(served) == [conversation]
    with pytest.raises(openai.BadRequestError) as unknown:
        await client.responses.create(model="helper", input="c", previous_response_id=second.id)
    assert unknown.value.code == "previous_response_not_found"


async def test_not_stored_after_a_response_that_is(serve: Serve) -> None:
    served = await serve(scripted(says("One."), says("Two.")))
    client = client_of(served)
    first = await client.responses.create(model="helper", input="a")
    (conversation,) = conversations(served)
    second = await client.responses.create(model="helper", input="b", previous_response_id=first.id, store=False)
    assert second.output_text == "Two."
    assert conversations(served) == [conversation]
    assert len(served.history(conversation)) == 2


async def test_a_client_that_leaves_an_unstored_stream_leaves_nothing_behind(serve: Serve) -> None:
    gate = Gate()
    served = await serve(scripted(calls("wait_at_gate"), says("done"), tools=[function_tool(gate.wait_at_gate)]))
    body = {"model": "helper", "input": "go", "stream": True, "store": False}
    async with served.request("POST", "/v1/responses", json_body=body) as request:
        await request.frames_until("response.mcp_call.in_progress")
        request.leave()
        gate.open.set()
    assert conversations(served) == []


async def test_deleted(serve: Serve) -> None:
    served = await serve(scripted(says("One."), says("Two."), says("Three.")))
    client = client_of(served)
    alone = await client.responses.create(model="helper", input="a")
    await client.responses.delete(alone.id)
    assert conversations(served) == []
    first = await client.responses.create(model="helper", input="a")
    second = await client.responses.create(model="helper", input="b", previous_response_id=first.id)
    await client.responses.delete(first.id)
    assert len(conversations(served)) == 1
    for call in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            await call(first.id)
    assert (await client.responses.retrieve(second.id)).output_text == "Three."


async def test_repeated_under_one_key(serve: Serve) -> None:
    served = await serve(scripted(says("One."), says("Two."), says("Three.")))
    client = client_of(served)
    header = {"Idempotency-Key": "start-1"}
    first = await client.responses.create(model="helper", input="a", extra_headers=header)
    again = await client.responses.with_raw_response.create(model="helper", input="a", extra_headers=header)
    assert again.parse() == first
    assert again.headers["idempotent-replayed"] == "true"
    header = {"Idempotency-Key": "start-2"}
    second = await client.responses.create(
        model="helper", input="b", previous_response_id=first.id, extra_headers=header
    )
    repeated = await client.responses.create(
        model="helper", input="b", previous_response_id=first.id, extra_headers=header
    )
    assert repeated == second
    with pytest.raises(openai.ConflictError) as conflict:
        await client.responses.create(model="helper", input="c", extra_headers=header)
    assert conflict.value.code == "idempotency_conflict"


async def test_a_run_that_fails_is_a_response_that_failed(serve: Serve) -> None:
    served = await serve(scripted())
    client = client_of(served)
    response = await client.responses.create(model="helper", input="hi")
    assert response.status == "failed"
    assert response.error is not None
    assert response.error.code == "server_error"
    events = await check(client, response)
    assert events[-1].type == "response.failed"


async def test_input_items_are_paged(serve: Serve) -> None:
    served = await serve(scripted(says("Hm.")))
    client = client_of(served)
    image = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    given: Any = [
        {"role": "developer", "content": "one"},
        {"role": "user", "content": [{"type": "input_text", "text": "two"}, image]},
        {"role": "assistant", "content": "three"},
        {"role": "user", "content": "four"},
    ]
    response = await client.responses.create(model="helper", input=given)
    page = await client.responses.input_items.list(response.id, limit=3, order="asc")
    assert [getattr(item, "role", None) for item in page.data] == ["developer", "user", "assistant"]
    assert page.has_more
    following = await client.responses.input_items.list(response.id, after=page.data[-1].id or "", order="asc")
    assert [getattr(item, "role", None) for item in following.data] == ["user"]
    newest = [item async for item in client.responses.input_items.list(response.id, limit=2)]
    assert [item.id for item in newest] == [item.id for item in [*page.data, *following.data]][::-1]


async def key(served: Served, organization_id: str, **fields: Any) -> str:
    return (await served.container.keys.create(NewKey(organization_id=organization_id, name="test", **fields))).secret


async def test_other_tenants_see_nothing(serve: Serve) -> None:
    served = await serve(scripted(calls("wipe", '{"disk":"c"}'), says("Gone."), tools=[wipe]))
    owner = client_of(served, await key(served, "acme", user_id="ann"))
    mine = await owner.responses.create(model="helper", input="a")
    answer: Any = {"type": "mcp_approval_response", "approval_request_id": mine.output[0].id, "approve": True}
    for organization, user in (("other", None), ("acme", "bob")):
        stranger = client_of(served, await key(served, organization, user_id=user))
        for call in (
            stranger.responses.retrieve,
            stranger.responses.input_items.list,
            stranger.responses.cancel,
            stranger.responses.delete,
        ):
            with pytest.raises(openai.NotFoundError):
                await call(mine.id)
        with pytest.raises(openai.NotFoundError):
            await resumed(stranger, mine.id)
        for request in ({"input": [answer]}, {"input": "b", "previous_response_id": mine.id}):
            with pytest.raises(openai.BadRequestError):
                await stranger.responses.create(model="helper", **request)
    assert (await owner.responses.create(input=[answer])).output_text == "Gone."


async def test_keys_for_some_agents_run_no_others(serve: Serve) -> None:
    served = await serve(scripted(says("Hi.")), scripted(calls("wipe", '{"disk":"c"}'), name="secret", tools=[wipe]))
    everyone = client_of(served, await key(served, "acme"))
    limited = client_of(served, await key(served, "acme", agents=frozenset({"helper"})))
    assert (await limited.responses.create(model="helper", input="hi")).output_text == "Hi."
    with pytest.raises(openai.NotFoundError) as hidden:
        await limited.responses.create(model="secret", input="hi")
    with pytest.raises(openai.NotFoundError) as unknown:
        await limited.responses.create(model="nobody", input="hi")
    assert hidden.value.code == unknown.value.code == "model_not_found"
    asked = await everyone.responses.create(model="secret", input="hi")
    answer: Any = {"type": "mcp_approval_response", "approval_request_id": asked.output[0].id, "approve": True}
    with pytest.raises(openai.BadRequestError):
        await limited.responses.create(input=[answer])


async def test_after_the_log_has_been_deleted(serve: Serve) -> None:
    served = await serve(scripted(calls("add", '{"a":1,"b":2}'), says("It is three."), tools=[add]))
    client = client_of(served)
    events = await streamed(client, model="helper", input="1+2?")
    last: Any = events[-1]
    whole = last.response
    await finished_days_ago(served, 10)
    await served.container.runs.prune()
    assert await client.responses.retrieve(whole.id) == whole
    replayed = await resumed(client, whole.id)
    assert getattr(replayed[-1], "response", None) == whole
    with pytest.raises(openai.BadRequestError) as gone:
        await resumed(client, whole.id, starting_after=3)
    assert (gone.value.code, gone.value.param) == ("stream_expired", "starting_after")
    await finished_days_ago(served, 100)
    await served.container.runs.prune()
    assert await client.responses.retrieve(whole.id) == whole
    with pytest.raises(openai.BadRequestError) as gone:
        await resumed(client, whole.id)
    assert (gone.value.code, gone.value.param) == ("stream_expired", "stream")
