// The AI SDK's own chat and transport against a server with the demo agents: BASE_URL, and API_KEY where one is needed.
//
// The package checks every part of every stream by its schema, and builds the messages; what it builds is checked here.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import {
  AbstractChat,
  DefaultChatTransport,
  lastAssistantMessageIsCompleteWithApprovalResponses,
  lastAssistantMessageIsCompleteWithToolCalls,
  validateUIMessages,
} from 'ai';

const base = process.env.BASE_URL ?? 'http://127.0.0.1:8000';
const headers = process.env.API_KEY ? { authorization: `Bearer ${process.env.API_KEY}` } : {};
const api = `${base}/api/chat/ai`;

class State {
  status = 'ready';
  error = undefined;
  messages = [];
  pushMessage = message => { this.messages = [...this.messages, message]; };
  popMessage = () => { this.messages = this.messages.slice(0, -1); };
  replaceMessage = (index, message) => { this.messages = this.messages.with(index, message); };
  snapshot = value => structuredClone(value);
}

class Chat extends AbstractChat {
  constructor({ body, messages = [], ...options } = {}) {
    const state = new State();
    state.messages = messages;
    super({
      state,
      id: randomUUID(),
      transport: new DefaultChatTransport({ api, headers, body }),
      onError: error => { throw error; },
      ...options,
    });
  }
}

const until = async (what, holds) => {
  for (let tries = 0; tries < 500; tries++) {
    if (holds()) return;
    await new Promise(resolve => setTimeout(resolve, 20));
  }
  throw new Error(`never happened: ${what}`);
};
const texts = message => message.parts.filter(part => part.type === 'text').map(part => part.text).join('');
const tool = (message, name) => message.parts.find(part => part.type === `tool-${name}`);
const sound = async chat => {
  assert.equal(chat.error, undefined);
  assert.equal(chat.status, 'ready');
  await validateUIMessages({ messages: chat.messages });
};

const checks = {
  async 'a message, and another one in the same conversation'() {
    const chat = new Chat();
    await chat.sendMessage({ text: 'My name is Ada.' });
    await sound(chat);
    assert.equal(chat.messages.length, 2);
    assert.match(texts(chat.lastMessage), /My name is Ada/);
    const { conversationId } = chat.lastMessage.metadata;
    await chat.sendMessage({ text: 'What did I say before?' });
    await sound(chat);
    assert.match(texts(chat.lastMessage), /Earlier you said: My name is Ada/);
    assert.equal(chat.lastMessage.metadata.conversationId, conversationId);
    assert.equal(chat.lastMessage.metadata.usage.requests, 1);
  },

  async 'a tool of the server'() {
    const called = [];
    const chat = new Chat({ onToolCall: ({ toolCall }) => { called.push(toolCall); } });
    await chat.sendMessage({ text: 'What is the weather in Oslo?' });
    await sound(chat);
    const call = tool(chat.lastMessage, 'get_weather');
    assert.equal(call.state, 'output-available');
    assert.deepEqual(call.input, { city: 'Oslo' });
    assert.equal(call.providerExecuted, true);
    assert.deepEqual(called, []);
    assert.equal(chat.lastMessage.parts.filter(part => part.type === 'step-start').length, 2);
  },

  async 'a tool of the client'() {
    const parameters = { type: 'object', properties: { city: { type: 'string' } } };
    const tools = [{ type: 'function', name: 'get_weather', parameters }];
    const chat = new Chat({
      body: { agent: 'poet', tools },
      sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithToolCalls,
      onToolCall: ({ toolCall }) => {
        const { toolName, toolCallId, input } = toolCall;
        void chat.addToolOutput({ tool: toolName, toolCallId, output: `rain in ${input.city}` });
      },
    });
    await chat.sendMessage({ text: 'What is the weather in Oslo?' });
    await until('the answer', () => chat.status === 'ready' && texts(chat.lastMessage) !== '');
    await sound(chat);
    assert.match(texts(chat.lastMessage), /rain in Oslo/);
  },

  async 'a call that a person allows, and one that is denied'() {
    for (const approved of [true, false]) {
      const chat = new Chat({ sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithApprovalResponses });
      await chat.sendMessage({ text: 'Send a postcard from Oslo.' });
      await sound(chat);
      const asked = tool(chat.lastMessage, 'send_postcard');
      assert.equal(asked.state, 'approval-requested');
      await chat.addToolApprovalResponse({ id: asked.approval.id, approved, reason: approved ? undefined : 'Not now.' });
      await until('the end', () => chat.status === 'ready' && texts(chat.lastMessage) !== '');
      await sound(chat);
      assert.equal(chat.messages.length, 2);
      const calls = chat.lastMessage.parts.filter(part => part.type === 'tool-send_postcard');
      assert.deepEqual(calls.map(call => call.state), [approved ? 'output-available' : 'output-denied']);
    }
  },

  async 'a stream that broke off is resumed'() {
    const id = randomUUID();
    const chat = new Chat({ id });
    const sending = chat.sendMessage({ text: 'Make a table, please.' });
    await until('the first word', () => chat.messages.length === 2 || chat.status === 'ready');
    await chat.stop();
    await sending;
    const later = new Chat({ id, messages: chat.messages.slice(0, 1) });
    await later.resumeStream();
    await sound(later);
    // It may have ended before; then there is nothing to resume.
    if (later.messages.length === 2) assert.match(texts(later.lastMessage), /\| Oslo \| snow/);
    const never = new Chat();
    await never.resumeStream();
    assert.deepEqual(never.messages, []);
  },

  async 'what cannot be done is an error'() {
    const chat = new Chat({ onError: undefined });
    await chat.sendMessage({ text: 'Hello.' });
    await chat.regenerate();
    assert.equal(chat.status, 'error');
    assert.match(chat.error.message, /regenerate-message/);
  },
};

for (const [name, check] of Object.entries(checks)) {
  await check();
  console.log(`ok - ${name}`);
}
