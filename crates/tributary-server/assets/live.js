// What becomes visible in the home timeline while it is open: a stream of events, or repeated
// requests where the server has no stream. Both continue after the last event, so nothing is lost.
import { call } from "./api.js";

const KINDS = ["post", "update", "delete", "follow", "unfollow", "mute", "unmute", "block", "unblock", "gap"];
const PAUSE_MS = 4000;
const PAUSE_MAX_MS = 60000;

/** Calls `take(events, gap)` for everything new since `token`, and `state(ok)` when that changes. */
export function follow(feed, token, { take, state }) {
  let since = token;
  let stream;
  let streams = true;
  let pause = PAUSE_MS;
  let timer;

  /** Opens the stream. The browser opens it again by itself, unless the server refuses it. */
  function listen() {
    stream = new EventSource(`${feed}/live?${new URLSearchParams({ since })}`);
    for (const kind of KINDS) {
      stream.addEventListener(kind, (event) => {
        since = event.lastEventId || since;
        take(kind === "gap" ? [] : [JSON.parse(event.data)], kind === "gap");
      });
    }
    stream.onopen = () => state(true);
    stream.onerror = () => {
      if (stream?.readyState === EventSource.CLOSED) {
        stream = undefined;
        streams = false;
        ask();
      } else {
        state(false, new Error("The server does not answer."));
      }
    };
  }

  async function ask() {
    try {
      const answer = await call("GET", `${feed}/new?${new URLSearchParams({ since, limit: "100" })}`);
      if (answer.token) since = answer.token;
      pause = answer.more ? 0 : PAUSE_MS;
      take(answer.events, answer.gap);
      state(true);
    } catch (error) {
      pause = Math.min(Math.max(pause, PAUSE_MS) * 2, PAUSE_MAX_MS);
      state(false, error);
    }
    schedule();
  }

  function schedule() {
    clearTimeout(timer);
    if (!document.hidden) timer = setTimeout(ask, pause);
  }

  /** A hidden page holds no connection: browsers open only a few to one server. */
  function resume() {
    stream?.close();
    stream = undefined;
    clearTimeout(timer);
    pause = 0;
    if (document.hidden) return;
    if (streams) listen();
    else schedule();
  }

  document.addEventListener("visibilitychange", resume);
  addEventListener("online", resume);
  addEventListener("pagehide", () => stream?.close());
  resume();
}
