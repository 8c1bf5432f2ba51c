// OpenAI's own Node client against a server with the demo agents over the fake OpenAI: BASE_URL, API_KEY, ADMIN_KEY
// (a key with the scope `admin`), and SIGNED_WEBHOOK: `{"body", "headers", "secret"}` of a delivery as the server signs it.
//
// The model answers `echo N: TEXT` and calls `NAME` where the text holds `call:NAME {json}`. The client's own helpers put
// streams together, check the order of their events, execute tools and parse answers by their schemas.
import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { zodFunction, zodResponseFormat, zodResponsesFunction, zodTextFormat } from 'openai/helpers/zod';
import { z } from 'zod';

const baseURL = `${process.env.BASE_URL}/v1`;
const client = new OpenAI({ baseURL, apiKey: process.env.API_KEY, maxRetries: 0 });
const admin = new OpenAI({
  baseURL,
  apiKey: process.env.ADMIN_KEY,
  adminAPIKey: process.env.ADMIN_KEY,
  maxRetries: 0,
});

const AGENTS = ['poet', 'demo'];
const MODELS = [...AGENTS, 'gpt-4.1-mini'];
const City = z.object({ name: z.string(), country: z.string() });
const Sum = z.object({ a: z.number(), b: z.number() });
const ASKED = 'call:add {"a": 2, "b": 3}';
const LONG = 'word '.repeat(20_000).trim();

const add = { name: 'add', description: 'Add two numbers.', parameters: Sum };
const collected = async stream => {
  const seen = [];
  for await (const one of stream) seen.push(one);
  return seen;
};
const numbered = (events, first = 0) =>
  assert.deepEqual(events.map(event => event.sequence_number), events.map((_, index) => first + index));
const said = events =>
  events.filter(event => event.type === 'response.output_text.delta').map(event => event.delta).join('');
const asMessages = text => [{ role: 'user', content: text }];
const until = async (what, holds) => {
  for (let tries = 0; tries < 500; tries++) {
    if (await holds()) return;
    await new Promise(resolve => setTimeout(resolve, 20));
  }
  throw new Error(`never happened: ${what}`);
};

const ofEveryModel = {
  async 'responses: a text, with its usage'(model) {
    const response = await client.responses.create({ model, input: 'hello', instructions: 'Be brief.' });
    assert.equal(response.output_text, 'echo 1: hello');
    assert.equal(response.status, 'completed');
    assert.ok(response.usage.output_tokens > 0);
    assert.equal(response.usage.total_tokens, response.usage.input_tokens + response.usage.output_tokens);
    assert.ok(response._request_id);
  },

  async 'responses: a stream'(model) {
    const events = await collected(await client.responses.create({ model, input: 'a few words', stream: true }));
    numbered(events);
    assert.equal(events[0].type, 'response.created');
    assert.equal(events.at(-1).type, 'response.completed');
    assert.equal(said(events), 'echo 1: a few words');
    const stream = client.responses.stream({ model, input: 'a few words' });
    const deltas = [];
    stream.on('response.output_text.delta', event => { deltas.push(event.snapshot); });
    assert.equal((await stream.finalResponse()).output_text, 'echo 1: a few words');
    assert.equal(deltas.at(-1), 'echo 1: a few words');
  },

  async "responses: a tool of the client's, and its output"(model) {
    const tools = [zodResponsesFunction(add)];
    const input = [{ role: 'user', content: ASKED }];
    const first = await client.responses.parse({ model, input, tools });
    const call = first.output.find(item => item.type === 'function_call');
    assert.deepEqual(call.parsed_arguments, { a: 2, b: 3 });
    const { parsed_arguments: _, ...given } = call;
    const output = { type: 'function_call_output', call_id: call.call_id, output: '5' };
    const second = await client.responses.create({ model, tools, input: [...input, given, output] });
    assert.equal(second.output_text, '5');
    const streamed = await client.responses.stream({ model, input, tools }).finalResponse();
    assert.deepEqual(streamed.output.find(item => item.type === 'function_call').parsed_arguments, { a: 2, b: 3 });
  },

  async 'responses: an answer in a form'(model) {
    const text = { format: zodTextFormat(City, 'city') };
    const response = await client.responses.parse({ model, input: 'Lisbon', text });
    assert.deepEqual(City.parse(response.output_parsed), response.output_parsed);
    const streamed = await client.responses.stream({ model, input: 'Lisbon', text }).finalResponse();
    assert.deepEqual(streamed.output_parsed, response.output_parsed);
  },

  async 'chat: a text, with its usage'(model) {
    const chat = await client.chat.completions.create({ model, messages: asMessages('hello') });
    assert.equal(chat.choices[0].message.content, 'echo 1: hello');
    assert.equal(chat.choices[0].finish_reason, 'stop');
    assert.ok(chat.usage.completion_tokens > 0);
  },

  async 'chat: a stream, with its usage'(model) {
    const request = { model, messages: asMessages('a few words'), stream_options: { include_usage: true } };
    const chunks = await collected(await client.chat.completions.create({ ...request, stream: true }));
    assert.equal(new Set(chunks.map(chunk => chunk.id)).size, 1);
    assert.equal(chunks[0].choices[0].delta.role, 'assistant');
    assert.deepEqual(chunks.at(-1).choices, []);
    assert.ok(chunks.at(-1).usage.completion_tokens > 0);
    const whole = await client.chat.completions.stream(request).finalChatCompletion();
    assert.equal(whole.choices[0].message.content, 'echo 1: a few words');
    assert.deepEqual(whole.usage, chunks.at(-1).usage);
  },

  async "chat: tools that the client's runner executes"(model) {
    const called = [];
    const tools = [zodFunction({ ...add, function: ({ a, b }) => { called.push([a, b]); return String(a + b); } })];
    const request = { model, messages: asMessages(ASKED), tools };
    assert.equal(await client.chat.completions.runTools(request).finalContent(), '5');
    assert.equal(await client.chat.completions.runTools({ ...request, stream: true }).finalContent(), '5');
    assert.deepEqual(called, [[2, 3], [2, 3]]);
  },

  async 'chat: an answer in a form'(model) {
    const request = { model, messages: asMessages('Lisbon'), response_format: zodResponseFormat(City, 'city') };
    const parsed = (await client.chat.completions.parse(request)).choices[0].message.parsed;
    assert.deepEqual(City.parse(parsed), parsed);
    const streamed = await client.chat.completions.stream(request).finalChatCompletion();
    assert.deepEqual(streamed.choices[0].message.parsed, parsed);
  },
};

const ofAgents = {
  async 'a response after a response, its tools in between'(model) {
    const tools = [zodResponsesFunction(add)];
    const first = await client.responses.create({ model, input: ASKED, tools });
    const call = first.output.find(item => item.type === 'function_call');
    const second = await client.responses.create({
      model,
      tools,
      previous_response_id: first.id,
      input: [{ type: 'function_call_output', call_id: call.call_id, output: '5' }],
    });
    assert.equal(second.output_text, '5');
    assert.equal(second.previous_response_id, first.id);
    const third = await client.responses.create({ model, previous_response_id: second.id, input: 'two' });
    assert.equal(third.output_text, 'echo 2: two');
    const items = await collected(client.responses.inputItems.list(second.id));
    assert.deepEqual(items.map(item => item.type), ['function_call_output']);
    await client.responses.delete(third.id);
    await assert.rejects(client.responses.retrieve(third.id), OpenAI.NotFoundError);
  },

  async 'a conversation and its items'(model) {
    const conversation = await client.conversations.create({
      metadata: { topic: 'numbers' },
      items: [{ type: 'message', role: 'user', content: 'zero' }],
    });
    const response = await client.responses.create({ model, conversation: conversation.id, input: 'one' });
    assert.equal(response.output_text, 'echo 2: one');
    assert.equal(response.conversation.id, conversation.id);
    const items = await collected(client.conversations.items.list(conversation.id, { order: 'asc', limit: 1 }));
    assert.deepEqual(items.map(item => item.role), ['user', 'user', 'assistant']);
    const { data } = await client.conversations.items.create(conversation.id, {
      items: [{ type: 'message', role: 'user', content: 'two' }],
    });
    const where = { conversation_id: conversation.id };
    assert.equal((await client.conversations.items.retrieve(data[0].id, where)).content[0].text, 'two');
    await client.conversations.items.delete(data[0].id, where);
    await assert.rejects(client.conversations.items.retrieve(data[0].id, where), OpenAI.NotFoundError);
    const changed = await client.conversations.update(conversation.id, { metadata: { topic: 'words' } });
    assert.deepEqual(changed.metadata, { topic: 'words' });
    assert.deepEqual(await client.conversations.retrieve(conversation.id), changed);
    assert.equal((await client.conversations.delete(conversation.id)).deleted, true);
    await assert.rejects(client.conversations.retrieve(conversation.id), OpenAI.NotFoundError);
  },

  async 'in the background'(model) {
    const begun = await client.responses.create({ model, input: 'hello', background: true });
    assert.ok(['queued', 'in_progress', 'completed'].includes(begun.status), begun.status);
    let ended;
    await until('the end', async () => {
      ended = await client.responses.retrieve(begun.id);
      return !['queued', 'in_progress'].includes(ended.status);
    });
    assert.equal(ended.status, 'completed');
    assert.equal(ended.output_text, 'echo 1: hello');
    assert.equal(ended.background, true);
  },

  async 'a response is cancelled while it is made'(model) {
    const events = [];
    for await (const event of await client.responses.create({ model, input: LONG, stream: true, background: true })) {
      events.push(event);
      if (event.type === 'response.created') {
        assert.equal((await client.responses.cancel(event.response.id)).status, 'cancelled');
      }
    }
    numbered(events);
    assert.equal(events.at(-1).response.status, 'cancelled');
    assert.ok(said(events).length < LONG.length);
    assert.equal((await client.responses.retrieve(events[0].response.id)).status, 'cancelled');
  },

  async 'a stream that broke off goes on behind its last event'(model) {
    const input = LONG.slice(0, 5_000).trim();
    const before = [];
    const stream = await client.responses.create({ model, input, stream: true });
    for await (const event of stream) {
      before.push(event);
      if (said(before).length > 50) break;
    }
    const last = before.at(-1).sequence_number;
    const { id } = before[0].response;
    const after = await collected(await client.responses.retrieve(id, { stream: true, starting_after: last }));
    numbered(after, last + 1);
    assert.equal(said(before) + said(after), `echo 1: ${input}`);
    assert.deepEqual(after.at(-1).response, await client.responses.retrieve(id).then(plain));
    const again = client.responses.stream({ response_id: id, starting_after: last });
    assert.equal((await again.finalResponse()).output_text, `echo 1: ${input}`);
  },

  async 'nothing is stored that is not to be'(model) {
    const response = await client.responses.create({ model, input: 'hello', store: false });
    await assert.rejects(client.responses.retrieve(response.id), OpenAI.NotFoundError);
    const chat = await client.chat.completions.create({ model, messages: asMessages('hello') });
    await assert.rejects(client.chat.completions.retrieve(chat.id), OpenAI.NotFoundError);
  },

  async 'a chat that is stored'(model) {
    const made = { model, messages: asMessages('hello'), store: true, metadata: { job: '7' } };
    const chat = await client.chat.completions.create(made);
    const found = await client.chat.completions.retrieve(chat.id);
    assert.equal(found.choices[0].message.content, 'echo 1: hello');
    assert.deepEqual(found.metadata, { job: '7' });
    const messages = await collected(client.chat.completions.messages.list(chat.id));
    assert.deepEqual(messages.map(message => message.content), ['hello']);
    assert.deepEqual((await client.chat.completions.update(chat.id, { metadata: { job: '8' } })).metadata, { job: '8' });
    assert.equal((await client.chat.completions.delete(chat.id)).deleted, true);
    await assert.rejects(client.chat.completions.retrieve(chat.id), OpenAI.NotFoundError);
  },

  async 'a request that is sent twice'(model) {
    const options = { headers: { 'Idempotency-Key': `node-${model}-${Date.now()}` } };
    const first = await client.responses.create({ model, input: 'hello' }, options);
    const second = await client.responses.create({ model, input: 'hello' }, options);
    assert.equal(second.id, first.id);
    const other = client.responses.create({ model, input: 'something else' }, options);
    await assert.rejects(other, OpenAI.ConflictError);
  },
};

/** Without what the client adds to a reply that is not streamed. */
const plain = ({ output_text, output, ...rest }) => ({ ...rest, output: structuredClone(output) });

const ofTheServer = {
  async 'models'() {
    const ids = (await collected(client.models.list())).map(model => model.id);
    for (const id of MODELS) assert.ok(ids.includes(id), `${id} of ${ids}`);
    assert.equal((await client.models.retrieve('poet')).owned_by, 'durable-agents');
  },

  async 'an approval'() {
    const asked = await client.responses.create({
      model: 'demo',
      input: 'call:send_postcard {"city": "Oslo"}',
    });
    const request = asked.output.find(item => item.type === 'mcp_approval_request');
    assert.equal(request.name, 'send_postcard');
    const answer = { type: 'mcp_approval_response', approval_request_id: request.id, approve: true };
    const done = await client.responses.create({ model: 'demo', previous_response_id: asked.id, input: [answer] });
    assert.equal(done.output.find(item => item.type === 'mcp_call').name, 'send_postcard');
  },

  async 'embeddings'() {
    const request = { model: 'text-embedding-3-small', input: ['one', 'two'] };
    const packed = await client.embeddings.create(request);
    assert.deepEqual(packed.data.map(one => one.embedding.length), [1536, 1536]);
    const floats = await client.embeddings.create({ ...request, encoding_format: 'float' });
    floats.data.forEach(({ embedding }, index) =>
      embedding.forEach((value, place) => assert.ok(Math.abs(value - packed.data[index].embedding[place]) < 1e-6)));
  },

  async 'errors are of the classes they should be'() {
    const refused = async (calling, kind, told) => {
      const error = await calling.then(() => assert.fail('it was not refused'), reason => reason);
      assert.ok(error instanceof kind, `${error}`);
      assert.ok(error.requestID, 'no request id');
      for (const [name, value] of Object.entries(told)) assert.equal(error[name], value);
    };
    const hello = { model: 'demo', input: 'hello' };
    await refused(client.models.retrieve('nobody'), OpenAI.NotFoundError, { status: 404, code: 'model_not_found' });
    await refused(client.responses.create({ ...hello, model: 'nobody' }), OpenAI.NotFoundError, { status: 404 });
    await refused(client.responses.retrieve('resp_unknown'), OpenAI.NotFoundError, { status: 404 });
    await refused(client.conversations.retrieve('conv_unknown'), OpenAI.NotFoundError, { status: 404 });
    await refused(client.responses.create({ ...hello, max_tool_calls: 1 }), OpenAI.BadRequestError, {
      status: 400,
      param: 'max_tool_calls',
      code: 'unsupported_parameter',
    });
    await refused(client.responses.create({ ...hello, temperature: 'hot' }), OpenAI.BadRequestError, {
      param: 'temperature',
    });
    await refused(client.chat.completions.create({ model: 'demo', messages: [], n: 2 }), OpenAI.BadRequestError, {
      param: 'messages',
    });
    const stranger = new OpenAI({ baseURL, apiKey: 'sk-nobody', maxRetries: 0 });
    await refused(stranger.responses.create(hello), OpenAI.AuthenticationError, { status: 401, code: 'invalid_api_key' });
    await refused(stranger.responses.create({ ...hello, stream: true }), OpenAI.AuthenticationError, { status: 401 });
    await refused(client.webhooks.list(), OpenAI.PermissionDeniedError, { status: 403 });
  },

  async 'webhook endpoints, and a delivery'() {
    const { secret, body, headers } = JSON.parse(process.env.SIGNED_WEBHOOK);
    const event = await client.webhooks.unwrap(body, headers, secret);
    assert.equal(event.type, 'response.completed');
    assert.match(event.data.id, /^resp_/);
    const forged = client.webhooks.unwrap(body.replace('resp_', 'resp_0'), headers, secret);
    await assert.rejects(forged, OpenAI.InvalidWebhookSignatureError);
    const asked = { name: 'mine', url: 'https://example.com/hook', event_types: ['response.completed'] };
    const made = await admin.webhooks.create(asked);
    assert.match(made.signing_secret, /^whsec_/);
    assert.equal((await admin.webhooks.update(made.id, { name: 'yours' })).name, 'yours');
    assert.notEqual((await admin.webhooks.rotateSecret(made.id, {})).signing_secret, made.signing_secret);
    assert.ok((await collected(admin.webhooks.list())).some(endpoint => endpoint.id === made.id));
    assert.ok((await admin.webhooks.eventTypes.list()).data.includes('response.completed'));
    assert.equal((await admin.webhooks.delete(made.id)).deleted, true);
    await assert.rejects(admin.webhooks.retrieve(made.id), OpenAI.NotFoundError);
  },

  async 'usage and costs, and a key'() {
    const { data } = await admin.admin.organization.usage.completions({
      start_time: Math.floor(Date.now() / 1_000) - 3_600,
      bucket_width: '1h',
      group_by: ['model'],
    });
    const results = data.flatMap(bucket => bucket.results);
    assert.ok(results.some(result => result.model?.startsWith('gpt-') && result.output_tokens > 0));
    const made = await admin.admin.organization.adminAPIKeys.create({ name: 'mine', scopes: ['read'] });
    const other = new OpenAI({ baseURL, apiKey: made.value, maxRetries: 0 });
    assert.ok((await other.models.list()).data.length > 0);
    await admin.admin.organization.adminAPIKeys.delete(made.id);
    // Another server than the one that has revoked it may take some seconds to know.
    const refused = () => other.models.list().then(() => false, error => error instanceof OpenAI.AuthenticationError);
    await until('the key is refused', async () => await refused() && await refused());
  },
};

const check = async (name, work) => {
  await work().catch(error => {
    error.message = `${name}: ${error.message}`;
    throw error;
  });
  console.log(`ok - ${name}`);
};
for (const model of MODELS) {
  for (const [name, work] of Object.entries(ofEveryModel)) await check(`${model}, ${name}`, () => work(model));
}
for (const model of AGENTS) {
  for (const [name, work] of Object.entries(ofAgents)) await check(`${model}, ${name}`, () => work(model));
}
for (const [name, work] of Object.entries(ofTheServer)) await check(name, work);
