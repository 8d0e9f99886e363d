// The agent's API as the page needs it: session, GET, POST with an idempotency key, and the stream of events.

const ROOT = "/api/v1";
const RETRY_MS = 1000;
const SIGNED_OUT_MS = 10000; // nobody can sign this screen in but a person
const TIMEOUT_MS = 8000;

export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || `HTTP ${status}`);
    this.status = status;
    this.code = body.code || "unknown";
    this.body = body;
  }
}

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** The launch file opens the page as `/#launch=<code>`: trade the code for the session cookie, once. */
export async function signIn() {
  const code = new URLSearchParams(location.hash.slice(1)).get("launch");
  if (!code) return;
  history.replaceState(null, "", location.pathname);
  await call("POST", "/auth/launch", { body: { code }, fresh: true }).catch((problem) => {
    if (!(problem instanceof Problem)) throw problem;
  });
}

export const get = (path) => call("GET", path);

/** A POST that moves money: the same key until the agent has answered, however often the line breaks. */
export async function post(path, body, key = crypto.randomUUID()) {
  for (;;) {
    try {
      return await call("POST", path, { body, key });
    } catch (problem) {
      const again = !(problem instanceof Problem) || problem.code === "request_in_progress";
      if (!again) throw problem;
      await sleep(RETRY_MS);
    }
  }
}

let refreshing = null;

function refresh() {
  refreshing ??= call("POST", "/auth/refresh", { body: {}, fresh: true }).finally(() => { refreshing = null; });
  return refreshing;
}

async function call(method, path, { body, key, fresh = false } = {}) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key) headers["Idempotency-Key"] = key;
  const response = await fetch(ROOT + path, {
    method,
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  if (response.status === 401 && !fresh) {
    await refresh();
    return call(method, path, { body, key, fresh: true });
  }
  const answer = response.status === 204 ? {} : await response.json();
  if (!response.ok) throw new Problem(response.status, answer);
  return answer;
}

/**
 * Events from the agent's journal, for ever. The browser resumes by itself after a break (`Last-Event-ID`); a stream
 * that it gave up is opened anew. `heard(type, data)` gets every message, `line(up)` every change of the line.
 */
export function listen(heard, line) {
  const source = new EventSource(`${ROOT}/events`);
  source.onopen = () => line(true);
  source.onmessage = (message) => {
    const event = JSON.parse(message.data);
    heard(event.type, event.data);
  };
  source.onerror = async () => {
    line(false);
    if (source.readyState !== EventSource.CLOSED) return;
    const refused = await refresh().then(() => false, (error) => error instanceof Problem);
    await sleep(refused ? SIGNED_OUT_MS : RETRY_MS);
    listen(heard, line);
  };
}
