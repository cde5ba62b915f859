// What becomes visible in the home timeline while it is open. Each answer continues where the one
// before it ended, so nothing is lost while the connection is.
import { call } from "./api.js";

const PAUSE_MS = 4000;
const PAUSE_MAX_MS = 60000;

/** Calls `take(events, gap)` for everything new since `token`, and `state(ok)` when that changes. */
export function follow(feed, token, { take, state }) {
  let since = token;
  let pause = PAUSE_MS;
  let timer;

  async function ask() {
    try {
      const query = new URLSearchParams({ since, limit: "100" });
      const answer = await call("GET", `${feed}/new?${query}`);
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

  document.addEventListener("visibilitychange", () => {
    pause = Math.min(pause, 500);
    schedule();
  });
  addEventListener("online", () => {
    pause = 0;
    schedule();
  });
  schedule();
}
