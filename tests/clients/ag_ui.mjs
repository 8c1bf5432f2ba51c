// AG-UI's own client against a server with the demo agents: BASE_URL, and API_KEY where one is needed.
//
// The client checks each event by its schema and the order of all of them, and builds the messages.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { HttpAgent } from '@ag-ui/client';

const base = process.env.BASE_URL ?? 'http://127.0.0.1:8000';
const headers = process.env.API_KEY ? { authorization: `Bearer ${process.env.API_KEY}` } : {};

const agentFor = (content, name = 'demo') => {
  const agent = new HttpAgent({ url: `${base}/agui/${name}`, headers, threadId: randomUUID() });
  agent.addMessage({ id: randomUUID(), role: 'user', content });
  return agent;
};
const last = agent => agent.messages.findLast(message => message.role === 'assistant' && message.content)?.content ?? '';
const run = async (agent, parameters = {}) => {
  const seen = [];
  await agent.runAgent(parameters, { onEvent: ({ event }) => { seen.push(event); } });
  return seen;
};

const checks = {
  async 'a message, and another one in the same thread'() {
    const agent = agentFor('My name is Ada.');
    await run(agent);
    assert.match(last(agent), /My name is Ada/);
    agent.addMessage({ id: randomUUID(), role: 'user', content: 'What did I say before?' });
    await run(agent);
    assert.match(last(agent), /Earlier you said: My name is Ada/);
  },

  async 'a tool of the server'() {
    const agent = agentFor('What is the weather in Oslo?');
    const seen = await run(agent);
    const result = seen.find(event => event.type === 'TOOL_CALL_RESULT');
    assert.match(result.content, /Oslo/);
    assert.match(last(agent), /Looked up with a tool/);
  },

  async 'a tool of the client'() {
    const agent = agentFor('What is the weather in Oslo?', 'poet');
    const parameters = { type: 'object', properties: { city: { type: 'string' } } };
    const tools = [{ name: 'get_weather', description: 'The weather.', parameters }];
    const seen = await run(agent, { tools });
    const [call] = agent.messages.flatMap(message => message.toolCalls ?? []);
    assert.equal(call.function.name, 'get_weather');
    assert.deepEqual(seen.at(-1).outcome.pendingToolCallIds, [call.id]);
    agent.addMessage({ id: randomUUID(), role: 'tool', toolCallId: call.id, content: 'rain in Oslo' });
    await run(agent, { tools });
    assert.match(last(agent), /rain in Oslo/);
  },

  async 'a run is interrupted and resumed'() {
    const agent = agentFor('Send a postcard from Oslo.');
    const finished = (await run(agent)).at(-1);
    assert.equal(finished.outcome.type, 'interrupt');
    const [interrupt] = finished.outcome.interrupts;
    const resume = [{ interruptId: interrupt.id, status: 'resolved', payload: { approved: true } }];
    const seen = await run(agent, { resume });
    assert.equal(seen.at(-1).outcome.type, 'success');
    assert.ok(seen.some(event => event.type === 'TOOL_CALL_RESULT' && event.toolCallId === interrupt.toolCallId));
  },
};

for (const [name, check] of Object.entries(checks)) {
  await check();
  console.log(`ok - ${name}`);
}
