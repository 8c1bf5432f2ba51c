"""Chat completions as the official client sees them: plain, of many kinds of messages, kept and not kept."""

import asyncio
from collections.abc import Callable
from typing import Any

import openai
import pytest
from agents import Agent, function_tool
from agents.testing import ScriptedModel, assistant_message
from pydantic import BaseModel

from app.api.openai.chat_runs import forgotten as forget
from app.domain.models.access import NewKey
from app.domain.models.approvals import Decision
from app.domain.models.conversations import Caller
from app.domain.models.runs import RunRequest
from app.services.access import LOCAL_ORGANIZATION
from tests.api.openai.chat_clients import HELLO, WEATHER, client_of, hello
from tests.api.openai.response_clients import add, wipe
from tests.api.serving import Gate, Served, calls, says, scripted
from tests.api.test_database_away import locked

Serve = Callable[..., Any]
LOCAL = Caller(LOCAL_ORGANIZATION)


class Sum(BaseModel):
    """An answer with a form."""

    total: int


async def forgotten(served: Served) -> None:
    """Wait until no conversation is left."""
    async with asyncio.timeout(10):
        while served.rows("SELECT id FROM agent_conversations"):
            await asyncio.sleep(0.005)


async def test_a_text_is_answered(serve: Serve) -> None:
    served = await serve(scripted(says("Hello there.")))
    completion = await client_of(served).chat.completions.create(**HELLO)
    assert completion.object == "chat.completion"
    assert completion.model == "helper"
    assert completion.id.startswith("chatcmpl-")
    (choice,) = completion.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert choice.message.role == "assistant"
    assert choice.message.content == "Hello there."
    assert choice.message.refusal is None
    assert choice.message.annotations == []
    assert choice.message.tool_calls is None
    assert completion.usage is not None
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    assert completion.usage.prompt_tokens_details is not None
    assert completion.usage.completion_tokens_details is not None
    assert "service_tier" not in completion.model_dump(exclude_unset=True)


async def test_a_call_leaves_nothing_but_its_usage_and_its_completion_event(serve: Serve) -> None:
    served = await serve(scripted(says("Hello there.")))
    reply = await client_of(served).chat.completions.with_raw_response.create(**HELLO)
    completion = reply.parse()
    assert "x-conversation-id" not in reply.headers
    await forgotten(served)
    run_id = f"run_{completion.id.removeprefix('chatcmpl-')}"
    assert reply.headers["x-run-id"] == run_id
    assert served.rows("SELECT id FROM agent_runs") == []
    assert [row["run_id"] for row in served.rows("SELECT run_id FROM agent_run_usage")] == [run_id]
    assert [row["run_id"] for row in served.rows("SELECT run_id FROM completion_events")] == [run_id]


async def test_a_failed_call_and_several_choices_are_forgotten_as_well(serve: Serve) -> None:
    served = await serve(scripted(says("One."), says("Two."), name="helper"), scripted(name="mute"))
    client = client_of(served)
    await client.chat.completions.create(**hello(n=2))
    with pytest.raises(openai.APIStatusError):
        await client.chat.completions.create(**hello(model="mute"))
    await forgotten(served)
    assert len(served.rows("SELECT id FROM completion_events")) == 3


async def test_messages_keep_their_order_and_meaning(serve: Serve) -> None:
    model = ScriptedModel([[assistant_message("Yes.")]])
    served = await serve(Agent(name="helper", model=model, instructions="Help."))
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}
    file = {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA==", "filename": "a.pdf"}}
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
    messages: list[Any] = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "See:"}, picture, file]},
        {"role": "assistant", "content": "I look.", "tool_calls": [call]},
        {
            "role": "tool",
            "tool_call_id": "c1",
            "content": [{"type": "text", "text": "3 "}, {"type": "text", "text": "C"}],
        },
        {"role": "assistant", "content": None, "refusal": "I will not."},
        {"role": "assistant", "content": [{"type": "text", "text": "Well"}, {"type": "refusal", "refusal": "no"}]},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "content": "And now?"},
    ]
    await client_of(served).chat.completions.create(model="helper", messages=messages)
    (asked,) = model.calls
    assert asked.system_instructions == "Help."
    assert asked.input == [
        {"role": "system", "content": "Be short."},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "See:"},
                {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
                {"type": "input_file", "file_data": "data:application/pdf;base64,AA==", "filename": "a.pdf"},
            ],
        },
        {"role": "assistant", "content": "I look."},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Oslo"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "3 C"},
        {
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "refusal", "refusal": "I will not."}],
        },
        {
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": "Well", "annotations": []},
                {"type": "refusal", "refusal": "no"},
            ],
        },
        {"role": "developer", "content": [{"type": "input_text", "text": "Be kind."}]},
        {"role": "user", "content": "And now?"},
    ]


async def test_the_agents_own_tools_are_executed_and_not_shown(serve: Serve) -> None:
    steps = [[assistant_message("Let me see."), *calls("add", '{"a":1,"b":2}')], says("Three.")]
    served = await serve(scripted(*steps, tools=[add]))
    completion = await client_of(served).chat.completions.create(**HELLO)
    assert completion.choices[0].message.content == "Let me see.\n\nThree."
    assert completion.choices[0].message.tool_calls is None
    assert completion.choices[0].finish_reason == "stop"


async def test_the_callers_tools_are_executed_by_the_caller(serve: Serve) -> None:
    model = ScriptedModel([calls("add", '{"a":1,"b":2}'), calls("weather", '{"city":"Oslo"}', "c2"), says("Cold.")])
    served = await serve(Agent(name="helper", model=model, tools=[add]))
    client = client_of(served)
    asked = await client.chat.completions.create(**hello(tools=[WEATHER], tool_choice="auto"))
    (choice,) = asked.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert (call.id, call.function.name, call.function.arguments) == ("c2", "weather", '{"city":"Oslo"}')
    messages: list[Any] = [*HELLO["messages"], choice.message, {"role": "tool", "tool_call_id": "c2", "content": "3"}]
    answered = await client.chat.completions.create(model="helper", messages=messages, tools=[WEATHER])
    assert answered.choices[0].message.content == "Cold."
    assert model.calls[2].input[1:] == [
        {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": '{"city":"Oslo"}'},
        {"type": "function_call_output", "call_id": "c2", "output": "3"},
    ]


async def test_an_answer_of_a_form_is_parsed(serve: Serve) -> None:
    steps = [[assistant_message("I add."), *calls("add", '{"a":1,"b":2}')], says('{"total": 3}')]
    served = await serve(scripted(*steps, tools=[add]))
    parsed = await client_of(served).chat.completions.parse(**hello(response_format=Sum))
    assert parsed.choices[0].message.parsed == Sum(total=3)


async def test_any_json_object(serve: Serve) -> None:
    served = await serve(scripted(says('{"a": [1]}'), says("no JSON")))
    client = client_of(served)
    asked = hello(response_format={"type": "json_object"})
    completion = await client.chat.completions.create(**asked)
    assert completion.choices[0].message.content == '{"a": [1]}'
    with pytest.raises(openai.InternalServerError) as failed:
        await client.chat.completions.create(**asked)
    assert failed.value.code == "agent_failed"


async def test_the_answer_of_an_agent_with_an_output_type(serve: Serve) -> None:
    served = await serve(scripted(says('{"total": 3}'), output_type=Sum))
    completion = await client_of(served).chat.completions.create(**HELLO)
    assert completion.choices[0].message.content == '{"total": 3}'


async def test_the_output_of_a_tool_can_be_the_answer(serve: Serve) -> None:
    agent = scripted(calls("add", '{"a":1,"b":2}'), tools=[add], tool_use_behavior="stop_on_first_tool")
    served = await serve(agent)
    completion = await client_of(served).chat.completions.create(**HELLO)
    assert completion.choices[0].message.content == "3"


async def test_several_answers_are_several_runs(serve: Serve) -> None:
    served = await serve(scripted(says("One."), says("Two."), says("Three.")))
    completion = await client_of(served).chat.completions.create(**hello(n=3))
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    said = {choice.message.content for choice in completion.choices}
    assert said == {"One.", "Two.", "Three."}
    rows = served.rows("SELECT SUM(input_tokens) AS input, SUM(output_tokens) AS output FROM agent_run_usage")
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == tuple(rows[0].values())
    assert len(served.rows("SELECT DISTINCT run_id FROM agent_run_usage")) == 3


async def test_a_stop_ends_the_text(serve: Serve) -> None:
    served = await serve(scripted(*[says("one two three")] * 3))
    client = client_of(served)
    for stop, text in [("two", "one "), (["three", " two"], "one"), (["four"], "one two three")]:
        completion = await client.chat.completions.create(**hello(stop=stop))
        assert completion.choices[0].message.content == text
        assert completion.choices[0].finish_reason == "stop"


async def test_a_run_that_waits_says_how_to_go_on(serve: Serve) -> None:
    served = await serve(scripted(calls("wipe", '{"disk":"c"}'), says("Gone."), tools=[wipe]))
    client = client_of(served)
    keyed = {"extra_headers": {"Idempotency-Key": "once"}}
    with pytest.raises(openai.ConflictError) as waits:
        await client.chat.completions.create(**HELLO, **keyed)
    assert waits.value.code == "approval_required"
    assert "1 approval of" in waits.value.message
    (run,) = served.rows("SELECT id, status FROM agent_runs")
    assert run["status"] == "waiting"
    assert f"/api/runs/{run['id']}/approvals" in waits.value.message
    await served.container.runs.decide(LOCAL, run["id"], [Decision("call_1", approve=True)])
    completion = await client.chat.completions.create(**HELLO, **keyed)
    assert completion.choices[0].message.content == "Gone."
    assert completion.id == f"chatcmpl-{run['id'].removeprefix('run_')}"
    await forgotten(served)


async def test_a_kept_call_is_a_conversation_that_later_calls_join(serve: Serve) -> None:
    model = ScriptedModel([says("One."), says("Two."), calls("weather", "{}", "c3"), says("Cold.")])
    served = await serve(Agent(name="helper", model=model, instructions="Help."))
    client = client_of(served)
    system, first = {"role": "system", "content": "Be short."}, {"role": "user", "content": "a"}
    messages: list[Any] = [system, first]
    reply = await client.chat.completions.with_raw_response.create(model="helper", messages=messages, store=True)
    conversation = reply.headers["x-conversation-id"]
    messages += [{"role": "assistant", "content": "One."}, {"role": "user", "content": "b"}]
    joined: Any = {"extra_headers": {"X-Conversation-Id": conversation}}
    await client.chat.completions.create(model="helper", messages=messages, **joined)
    by_metadata: Any = {"metadata": {"conversation_id": conversation, "ticket": "7"}}
    new: list[Any] = [{"role": "user", "content": "c"}]
    third = await client.chat.completions.create(model="helper", messages=new, tools=[WEATHER], **by_metadata)
    assert third.choices[0].finish_reason == "tool_calls"
    new = [{"role": "tool", "tool_call_id": "c3", "content": "3 C"}]
    reply = await client.chat.completions.with_raw_response.create(
        model="helper", messages=new, tools=[WEATHER], **by_metadata
    )
    assert reply.headers["x-conversation-id"] == conversation
    assert reply.parse().choices[0].message.content == "Cold."
    users = [item.get("content") for item in model.calls[3].input if item.get("role") == "user"]
    assert users == ["a", "b", "c"]
    assert [call.system_instructions for call in model.calls] == [
        "Help.\n\nBe short.",
        "Help.\n\nBe short.",
        "Help.",
        "Help.",
    ]
    assert [row["id"] for row in served.rows("SELECT id FROM agent_conversations")] == [conversation]
    (run,) = [row for row in served.rows("SELECT options FROM agent_runs") if "ticket" in row["options"]][:1]
    assert "conversation_id" not in run["options"]


async def test_a_conversation_of_nobody_does_not_exist(serve: Serve) -> None:
    served = await serve(scripted())
    by_metadata: Any = {"metadata": {"conversation_id": "conv_0"}}
    by_header: Any = {"extra_headers": {"X-Conversation-Id": "conv_0"}}
    for named, param in [(by_metadata, "metadata.conversation_id"), (by_header, "X-Conversation-Id")]:
        with pytest.raises(openai.NotFoundError) as unknown:
            await client_of(served).chat.completions.create(**hello(**named))
        assert (unknown.value.code, unknown.value.param) == ("conversation_not_found", param)


async def test_a_client_that_leaves_stops_nothing(serve: Serve) -> None:
    gate = Gate()
    served = await serve(scripted(calls("wait_at_gate"), says("Done."), tools=[function_tool(gate.wait_at_gate)]))
    async with served.request("POST", "/v1/chat/completions", json_body=HELLO) as sent:
        await gate.reached.wait()
        sent.leave()
        gate.open.set()
        await forgotten(served)
    (event,) = served.rows("SELECT outcome FROM completion_events")
    assert event["outcome"] == "success"


async def test_a_key_calls_what_it_may(serve: Serve) -> None:
    served = await serve(scripted(says("Hi.")), scripted(name="other"))
    new = NewKey(organization_id="acme", name="k", agents=frozenset({"helper"}))
    client = client_of(served, (await served.container.keys.create(new)).secret)
    assert (await client.chat.completions.create(**HELLO)).choices[0].message.content == "Hi."
    for model in ("other", "nobody", "gpt-4.1-mini"):
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.chat.completions.create(**hello(model=model))
        assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")


async def test_several_answers_are_started_all_or_none(serve: Serve) -> None:
    gate = Gate()
    script = [calls("wait_at_gate"), calls("wait_at_gate"), says("Done.")]
    served = await serve(scripted(*script, tools=[function_tool(gate.wait_at_gate)]))
    client = client_of(served)
    taken: Any = {"extra_headers": {"Idempotency-Key": "once#1"}}
    first = asyncio.create_task(client.chat.completions.create(**HELLO, **taken))
    await gate.reached.wait()
    with pytest.raises(openai.ConflictError):
        await client.chat.completions.create(**hello(n=2, user="else"), extra_headers={"Idempotency-Key": "once"})
    assert len(served.rows("SELECT id FROM agent_conversations")) == 1
    gate.open.set()
    assert (await first).choices[0].message.content == "Done."
    await forgotten(served)
    outcomes = [event["outcome"] for event in served.rows("SELECT outcome FROM completion_events ORDER BY created_at")]
    assert outcomes == ["user_terminated", "success"]


async def test_a_database_that_is_away_when_a_call_is_to_be_forgotten(
    serve: Serve, quiet_logs: list[dict[str, Any]]
) -> None:
    served = await serve(scripted(says("One.")), database={"sqlite_busy_timeout_s": 0.1})
    handle = await served.container.runs.start(RunRequest(LOCAL, "hello", "helper"))
    await handle.result()
    async with locked(served.database):
        await forget(served.container, LOCAL, [handle])
    assert [line["code"] for line in quiet_logs if line["event"] == "conversation_not_forgotten"] == [
        "storage_unavailable"
    ]
    await forget(served.container, LOCAL, [handle])
    assert served.rows("SELECT id FROM agent_conversations") == []
    await forget(served.container, LOCAL, [handle])
    assert len([line for line in quiet_logs if line["event"] == "conversation_not_forgotten"]) == 1
