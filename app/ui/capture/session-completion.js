// Reports how the sessions of a page ended, also when the tab is closed. One file, no dependency:
//   import { SessionCompletionClient } from "https://agents.example.org/ui/session-completion.js";
//   const client = new SessionCompletionClient({ endpoint: "https://agents.example.org", getToken });
//   const session = client.startSession(sessionId); session.message(); … session.end();
// `getToken` asks the page's own server, which makes a short-lived token with its key; no key is in the page.
// Every event waits in localStorage, by an id of its own, until the server has acknowledged it: it may be sent twice,
// and is recorded once.

const PREFIX = "session-completion:";
const MOST_WAITING = 500;
const MOST_BYTES = 60000; // browsers take 64 KiB from a page that goes
const REFRESH_MS = 60000; // a token is renewed that long before it ends
const LIFETIME_MS = 10 * 60000; // of a token that does not say
const FIRST_RETRY_MS = 1000;
const MOST_RETRY_MS = 60000;

const newId = () =>
  crypto.randomUUID ? crypto.randomUUID() : "10000000-1000-4000-8000-100000000000".replace(/[018]/g, (digit) =>
    (+digit ^ (crypto.getRandomValues(new Uint8Array(1))[0] & (15 >> (+digit / 4)))).toString(16));

export class SessionCompletionClient {
  // endpoint: the server's address; token or getToken (returns a token, or {token, expires_at}, or a promise of one).
  constructor({ endpoint = "", token = null, getToken = null } = {}) {
    Object.assign(this, { getToken, token, expiresMs: token ? Infinity : 0, memory: new Map(), sessions: new Set() });
    this.url = `${endpoint.replace(/\/+$/, "")}/v1/events`;
    this.retryMs = FIRST_RETRY_MS;
    this.sending = null;
    addEventListener("pagehide", () => { for (const session of [...this.sessions]) session.end(); this.beacon(); });
    addEventListener("visibilitychange", () => document.visibilityState === "hidden" ? this.beacon() : this.flush());
    addEventListener("online", () => this.flush());
    this.flush(); // what an earlier page has left
  }

  // Counts messages and time; `end` may be called once or more, and reports once.
  startSession(sessionId, { type = "chat", ...more } = {}) {
    const began = Date.now();
    const event = { ...more, event_id: newId(), session_id: sessionId, session_type: type, message_count: 0 };
    const session = {
      message: () => { event.message_count += 1; },
      end: (status = "user_terminated", extra = {}) => {
        if (!this.sessions.delete(session)) return event.event_id;
        return this.capture({ ...event, ...extra, duration_ms: Date.now() - began, outcome: { status } });
      },
    };
    this.sessions.add(session);
    if (this.getToken) this.currentToken().catch(() => {}); // there must be one when the tab is closed
    return session;
  }

  // Keeps an event until it is acknowledged; returns its id. Never throws.
  capture(event) {
    const kept = { event_type: "session.completed", event_id: newId(), timestamp: new Date().toISOString(), ...event };
    const text = JSON.stringify(kept);
    this.memory.set(kept.event_id, text);
    try { localStorage.setItem(PREFIX + kept.event_id, text); } catch { /* full or forbidden: the page's memory */ }
    this.flush();
    return kept.event_id;
  }

  // Sends what waits; resolves when all of it is acknowledged or a try has failed, which is made again by itself.
  flush() {
    this.sending ??= this.send().catch(() => false).then((sent) => {
      this.sending = null;
      this.retryMs = sent ? FIRST_RETRY_MS : Math.min(this.retryMs * 2, MOST_RETRY_MS);
      if (!sent || this.waiting().size) setTimeout(() => this.flush(), this.retryMs);
    });
    return this.sending;
  }

  waiting() {
    const found = new Map(this.memory);
    try {
      for (const key of Object.keys(localStorage)) {
        if (key.startsWith(PREFIX)) found.set(key.slice(PREFIX.length), localStorage.getItem(key));
      }
    } catch { /* forbidden */ }
    const texts = [...found].filter(([, text]) => text);
    for (const [id] of texts.slice(0, -MOST_WAITING)) this.forget(id);
    return new Map(texts.slice(-MOST_WAITING));
  }

  forget(id) {
    this.memory.delete(id);
    try { localStorage.removeItem(PREFIX + id); } catch { /* forbidden */ }
  }

  *batches() {
    let ids = [], texts = [], bytes = 0;
    for (const [id, text] of this.waiting()) {
      const size = new Blob([text]).size + 1;
      if (ids.length && bytes + size > MOST_BYTES) { yield { ids, body: `{"events":[${texts}]}` }; ids = []; texts = []; bytes = 0; }
      ids.push(id); texts.push(text); bytes += size;
    }
    if (ids.length) yield { ids, body: `{"events":[${texts}]}` };
  }

  async currentToken() {
    if (this.getToken && Date.now() > this.expiresMs - REFRESH_MS) {
      const made = await this.getToken();
      this.token = made?.token ?? made;
      this.expiresMs = made?.expires_at ? made.expires_at * 1000 : Date.now() + LIFETIME_MS;
      if (this.sessions.size) setTimeout(() => this.currentToken().catch(() => {}), Math.max(1000, this.expiresMs - Date.now() - REFRESH_MS));
    }
    return this.token;
  }

  async send() {
    for (const { ids, body } of this.batches()) {
      const token = await this.currentToken();
      const headers = { "content-type": "application/json", ...(token && { authorization: `Bearer ${token}` }) };
      const reply = await fetch(this.url, { method: "POST", body, headers, keepalive: true, credentials: "omit" });
      if (reply.status === 401) this.expiresMs = 0;
      // Another try would end the same way; all else is tried again.
      const over = reply.ok || [400, 413, 415].includes(reply.status);
      if (!over) return false;
      if (!reply.ok) console.warn("session-completion: refused", reply.status);
      ids.forEach((id) => this.forget(id));
    }
    return true;
  }

  // The page goes: nobody hears the answer, so the events stay until a later page hears that they are duplicates.
  beacon() {
    const query = this.token ? `?token=${encodeURIComponent(this.token)}` : "";
    for (const { body } of this.batches()) {
      const blob = new Blob([body], { type: "text/plain" }); // JSON would ask the server first, and the page is gone
      if (!navigator.sendBeacon?.(this.url + query, blob)) fetch(this.url + query, { method: "POST", body: blob, keepalive: true, credentials: "omit" }).catch(() => {});
    }
  }
}
