// Requests to the server. Writes use the API; pages are requested as the browser would open them.

const FRESHNESS = "tributary-freshness";
const TOKENS_MAX = 4;
const TIMEOUT_MS = 15000;

/** An answer that is an error. The text says what happened, for people. */
export class Failure extends Error {
  constructor(text, status) {
    super(text);
    this.status = status;
  }
}

/** Sends a request to the API. Returns the JSON of the answer, or null if it has none. */
export async function call(method, path, { body, key, keepalive } = {}) {
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key) headers["Idempotency-Key"] = key;
  const answer = await send(path, { method, headers, keepalive, body: body && JSON.stringify(body) });
  if (method !== "GET") keepFreshness(answer.headers.get("Tributary-Freshness"));
  return answer.status === 204 ? null : answer.json();
}

/** Requests a page and returns its document, in which no script runs. */
export async function page(path) {
  const answer = await send(path, { headers: { Accept: "text/html" } });
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

async function send(path, options) {
  let answer;
  try {
    answer = await fetch(path, { ...options, signal: AbortSignal.timeout(TIMEOUT_MS) });
  } catch {
    throw new Failure("The server does not answer.", 0);
  }
  if (answer.ok) return answer;
  // The credential has expired: the page to sign in.
  if (answer.status === 401) location.assign("/");
  throw new Failure(await detail(answer), answer.status);
}

async function detail(answer) {
  const problem = await answer.json().catch(() => ({}));
  const text = problem.detail ?? `The server answered ${answer.status}`;
  return `${text[0].toUpperCase()}${text.slice(1)}.`;
}

/** Keeps the tokens of the last writes for half a minute, so that the next pages show them. */
function keepFreshness(token) {
  if (!token) return;
  const found = document.cookie.split("; ").find((pair) => pair.startsWith(`${FRESHNESS}=`));
  const earlier = found ? found.slice(FRESHNESS.length + 1).split("~") : [];
  const tokens = [token, ...earlier.filter((one) => one && one !== token)].slice(0, TOKENS_MAX);
  document.cookie = `${FRESHNESS}=${tokens.join("~")}; Max-Age=30; Path=/home/; SameSite=Strict`;
}
