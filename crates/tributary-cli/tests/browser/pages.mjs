// Drives the pages in a real browser. The Rust test `browser.rs` starts it with its settings as JSON
// in the first argument, and answers the lines that it prints: see `ask` in `driver.mjs`.
import assert from "node:assert/strict";
import { api, ask, browser, faults, firstShown, go, ids, open, settings, show, showOpen, toEnd, top } from "./driver.mjs";
import { editing, finding, marking, replying } from "./people.mjs";
import { pictures } from "./pictures.mjs";

const { base, cold, reader, oracle } = settings;
const FOLLOW = "relation-button[data-list=following] button";

const checks = {
  /** The first view is small: the page, and all scripts and styles compressed. */
  async weight() {
    const page = await open("about:blank");
    const requests = [];
    // The stream of new posts has no end.
    page.on("request", (request) => { if (request.resourceType() !== "eventsource") requests.push(request); });
    await page.goto(`${base}/home/${reader}`);
    await page.waitForSelector("post-composer form");
    const sizes = await Promise.all(requests.map((request) => request.sizes()));
    const bytes = sizes.reduce((sum, size) => sum + size.responseBodySize + size.responseHeadersSize, 0);
    console.log(`first view: ${bytes} bytes`);
    assert.ok(bytes > 10_000 && bytes < 100_000, `${bytes} bytes`);
    await page.context().close();
  },

  /** Ten pages by scrolling are the posts of the API, in its order. */
  async scrolling() {
    const page = await open(`/home/${reader}`);
    let found = await ids(page);
    while (found.length < oracle.length) {
      await toEnd(page);
      const before = found.length;
      await page.waitForFunction((count) => document.querySelectorAll("article.post").length > count, before);
      found = await ids(page);
    }
    assert.deepEqual(found, oracle);
    await page.waitForSelector(".end");
    await page.context().close();
  },

  /** The page of shards changes while it is used: the focus stays on its link, also if that moves. */
  async refreshing() {
    const page = await open("/shards");
    const link = page.locator("a[href*='/explain']").last();
    const href = await link.getAttribute("href");
    await link.focus();
    const focused = () => page.evaluate(() => document.activeElement.getAttribute("href"));
    const change = async (edit) => {
      await page.evaluate(edit);
      await page.waitForFunction(() => !document.querySelector(".changed"));
      assert.equal(await focused(), href);
    };
    await page.evaluate(() => { window.link = document.activeElement; });
    await change(() => window.link.closest("tr").cells[2].classList.add("changed"));
    assert.ok(await page.evaluate(() => window.link.isConnected), "a click on the link is not lost");
    await change(() => window.link.closest("table").rows[1].before(Object.assign(document.createElement("tr"), { className: "changed" })));
    await page.keyboard.press("Enter");
    await page.waitForURL((address) => address.pathname.endsWith("/explain"));
    await page.context().close();
  },

  /** A reload shows the same post at the same place. */
  async reloading() {
    const page = await open(`/home/${reader}`);
    await page.waitForSelector("post-composer form");
    while ((await ids(page)).length < 45) {
      await toEnd(page);
      await page.waitForTimeout(50);
    }
    await page.evaluate(() => document.querySelectorAll("article.post")[41].scrollIntoView());
    const id = await firstShown(page);
    const before = await top(page, id);
    await page.reload();
    await page.waitForSelector(`#post-${id}`);
    await page.waitForFunction(([id, y]) => Math.abs(document.getElementById(`post-${id}`).getBoundingClientRect().top - y) <= 1, [id, before]);
    await page.context().close();
  },

  /** A post of another client is announced without moving anything, and shown on request. */
  async arriving() {
    const page = await open(`/home/${reader}`);
    await page.waitForSelector("post-composer form");
    await page.evaluate(() => scrollTo(0, 700));
    const id = await firstShown(page);
    const before = await top(page, id);
    const posted = [];
    for (let n = 0; n < 3; n += 1) {
      posted.unshift(await api("POST", `/v1/users/${settings.author}/posts`, { content: `live ${n}` }));
    }
    await page.waitForFunction(() => document.querySelector(".fresh button").textContent === "Show 3 new posts");
    assert.equal(await top(page, id), before, "nothing has moved");
    assert.equal(await page.textContent("#live"), "3 new posts.");
    assert.ok((await page.title()).startsWith("(3) "));
    await page.evaluate((id) => {
      const insert = new MutationObserver(() => {
        insert.disconnect();
        window.topAfterInsert = Math.round(document.getElementById(`post-${id}`).getBoundingClientRect().top);
      });
      insert.observe(document.querySelector(".posts"), { childList: true });
    }, id);
    await page.keyboard.press(".");
    await page.waitForFunction((id) => document.activeElement.id === `post-${id}`, `${settings.author}-${posted[0].post_id}`);
    assert.equal(await page.evaluate(() => window.topAfterInsert), before, "the insert moves nothing");
    const shown = (await ids(page)).slice(0, 3);
    assert.deepEqual(shown, posted.map((post) => `${settings.author}-${post.post_id}`));
    // A hidden page has no stream. When it is visible again, it gets what it has missed.
    const hide = (hidden) => page.evaluate((hidden) => {
      Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }, hidden);
    await hide(true);
    posted.unshift(await api("POST", `/v1/users/${settings.author}/posts`, { content: "live while away" }));
    assert.ok(await page.isHidden(".fresh button"));
    await hide(false);
    await page.waitForFunction(() => document.querySelector(".fresh button").textContent === "Show 1 new post");
    // A post that arrives while others are loaded waits for the next request.
    await page.route("**/home/**", async (route) => {
      const response = await route.fetch();
      posted.unshift(await api("POST", `/v1/users/${settings.author}/posts`, { content: "live while loading" }));
      await page.waitForFunction(() => document.querySelector("post-feed").waiting.size === 2);
      await route.fulfill({ response });
    }, { times: 1 });
    await page.keyboard.press(".");
    await page.waitForFunction(() => document.querySelector(".posts").textContent.includes("live while away"));
    await page.waitForFunction(() => document.querySelector(".fresh button:enabled").textContent === "Show 1 new post");
    for (const post of posted) await api("DELETE", `/v1/users/${settings.author}/posts/${post.post_id}`);
    await page.waitForFunction(() => !document.querySelector(".posts").textContent.includes("live 0"));
    await page.context().close();
  },

  /** What people write is text: markup, emoji, other directions, newlines. */
  async composing() {
    const page = await open(`/home/${reader}/authors/${reader}`);
    const text = "<script>alert('x')</script> & \"y\"\nشكرا 👩‍💻🇳🇱";
    const publish = async (text) => {
      await page.fill("#compose", text);
      assert.match(await page.textContent("#compose-count"), /^\d+ of 10,000 bytes$/);
      await page.keyboard.press("Control+Enter");
      await page.waitForFunction((text) => document.querySelector("article.post .text")?.textContent === text, text);
    };
    await page.keyboard.press("n");
    await publish("An earlier post");
    const [earlier] = await ids(page);
    const form = await page.locator(".composer").boundingBox();
    await publish(text);
    assert.equal((await page.locator(".composer").boundingBox()).y, form.y, "the form stays in its place");
    const post = page.locator("article.post").first();
    assert.equal(await page.inputValue("#compose"), "");
    await page.fill("#compose", "x".repeat(10001));
    assert.ok(await page.isDisabled(".composer .primary"));
    await page.fill("#compose", "");
    await post.locator("[data-action=delete]").click();
    await page.click("#confirm [value=no]");
    assert.equal(await post.locator(".text").textContent(), text);
    await post.locator("[data-action=delete]").click();
    await page.click("#confirm [value=yes]");
    await page.waitForFunction((text) => !document.querySelector("post-feed").textContent.includes(text), text);
    await api("DELETE", `/v1/users/${reader}/posts/${earlier.split("-")[1]}`);
    await page.context().close();
  },

  /** A follow brings the author's posts, an unfollow takes them away, also on the open page. */
  async following() {
    const { author } = settings;
    const home = await open(`/home/${reader}`);
    const page = await open(`/home/${reader}/authors/${author}`);
    await page.click(FOLLOW);
    await page.waitForSelector(`${FOLLOW}.primary:enabled`);
    await home.waitForFunction((author) => !document.querySelector(`[data-author="${author}"]`), author);
    await go(page, ".sections a");
    assert.ok(!(await ids(page)).some((id) => id.startsWith(`${author}-`)));
    await page.goto(`${base}/home/${reader}/authors/${author}`);
    await page.click(FOLLOW);
    await page.waitForSelector(`${FOLLOW}:not(.primary):enabled`);
    await go(page, ".sections a");
    assert.ok((await ids(page)).some((id) => id.startsWith(`${author}-`)));
    await home.context().close();
    await page.context().close();
  },

  /** A mute and a block hide posts at once. Controls that the shards cannot serve are not shown. */
  async hiding() {
    const other = "3";
    const home = await open(`/home/${reader}`);
    const page = await open(`/home/${reader}/authors/${other}`);
    const shows = async () => (await ids(page)).some((id) => id.startsWith(`${other}-`));
    for (const list of ["mutes", "blocks"]) {
      const button = `relation-button[data-list=${list}]`;
      await page.goto(`${base}/home/${reader}/authors/${other}`);
      const posted = await api("POST", `/v1/users/${other}/posts`, { content: "not shown yet" });
      await home.waitForFunction(() => document.querySelector(".fresh button").textContent === "Show 1 new post");
      await page.click(`${button} button`);
      await page.waitForSelector(`${button}[data-on=true] button:enabled`);
      await home.waitForFunction((author) => !document.querySelector(`[data-author="${author}"]`), other);
      // The post that waits is hidden too.
      await home.waitForFunction(() => !/\d/.test(document.querySelector(".fresh button").textContent));
      assert.ok(!(await home.title()).startsWith("("));
      assert.doesNotMatch(await home.textContent("#live"), /1 new post/);
      await api("DELETE", `/v1/users/${other}/posts/${posted.post_id}`);
      await page.goto(`${base}/home/${reader}`);
      assert.ok(!(await shows()), `${list} hides the posts`);
      await page.goto(`${base}/home/${reader}/${list}`);
      assert.equal(await page.textContent(".people li a span"), `User ${other}`);
      await page.click(`${button} button`);
      await page.waitForSelector(`${button}[data-on=false] button:enabled`);
      await page.goto(`${base}/home/${reader}`);
      assert.ok(await shows(), `${list} shows the posts again`);
      await home.reload();
    }
    const bare = await open(`${cold}/home/${reader}/authors/${other}`);
    assert.equal(await bare.locator("relation-button").count(), 1);
    await bare.goto(`${cold}/home/${reader}/following`);
    assert.deepEqual(await bare.$$eval(".tabs a", (tabs) => tabs.map((tab) => tab.textContent)), ["Following", "Followers"]);
    await bare.context().close();
    await home.context().close();
    await page.context().close();
  },

  /** Everything is reachable by the keyboard, and its keys can be turned off. */
  async keyboard() {
    const page = await open(`/home/${reader}`);
    await page.waitForSelector("post-composer form");
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.className), "skip");
    await page.keyboard.press("/");
    assert.equal(await page.evaluate(() => document.activeElement.id), "find");
    await page.fill("#find", settings.author);
    await page.keyboard.press("Enter");
    await page.waitForURL(`**/authors/${settings.author}`);
    await page.keyboard.press("j");
    await page.keyboard.press("j");
    await page.keyboard.press("k");
    const first = (await ids(page))[0];
    assert.equal(await page.evaluate(() => document.activeElement.id), `post-${first}`);
    await page.keyboard.press("?");
    await page.click("#keys-on");
    await page.keyboard.press("Escape");
    await page.keyboard.press("/");
    assert.notEqual(await page.evaluate(() => document.activeElement.id), "find");
    await page.context().close();
  },

  /** Without scripts, links lead through all pages, and no control is shown that does nothing. */
  async reading() {
    const page = await open(`/home/${reader}`, { javaScriptEnabled: false });
    let found = await ids(page);
    assert.ok(!(await page.isVisible("theme-switch")));
    while (await page.isVisible("a[rel=next]")) {
      await go(page, "a[rel=next]");
      found = found.concat(await ids(page));
    }
    assert.deepEqual(found, oracle);
    await go(page, "a[rel=prev]");
    assert.ok((await ids(page)).length > 0);
    await page.context().close();
  },

  /** Text flows in its own direction. */
  async directions() {
    const page = await open(`/home/${reader}`);
    const side = await page.locator("article.post .text", { hasText: "שלום" }).first().evaluate((text) => {
      const range = document.createRange();
      range.selectNodeContents(text);
      const box = text.getBoundingClientRect();
      const line = range.getBoundingClientRect();
      return [Math.round(line.left - box.left), Math.round(box.right - line.right)];
    });
    assert.ok(side[0] > side[1], `the text starts at the right: ${side}`);
    await page.context().close();
  },

  /** The drawer shows the figures of the API, with and without memory. */
  async explaining() {
    const page = await open(`/home/${reader}`);
    await toEnd(page);
    await page.waitForSelector(".seam");
    const second = new URL(await page.$eval(".seam a", (link) => link.href));
    const drawn = async (query, index = 0) => {
      const rows = await page.$$eval(".drawer .reading", (readings, index) =>
        [...readings[index].querySelectorAll("table:not(.steps) tbody tr")].map((row) => [...row.cells].map((cell) => cell.textContent)), index);
      const { explain } = await api("GET", `/v1/users/${reader}/feed?explain=1${query}`);
      assert.deepEqual(rows.map((row) => row.slice(0, 4)), explain.shards.map((one) =>
        [one.shard, one.queried ? "yes" : "no", `${one.rows}`, `${one.posts_from_memory} of ${one.posts}`]));
      assert.deepEqual(rows.map((row) => row[6].split(", ")[1]), explain.shards.map((one) => one.log.memory));
      assert.equal(await page.locator(".drawer .reading").nth(index).locator(".scatter g").count(), explain.shards.length);
    };
    await page.click(".head .explain-link");
    await page.waitForSelector(".drawer .scatter");
    assert.equal(await page.evaluate(() => document.activeElement.id), "explain-title");
    await drawn("");
    // A failure keeps the title, which names the drawer, and the focus.
    await page.route("**/explain?*", (route) => route.abort());
    await page.click(".drawer .again a");
    await page.waitForSelector(".drawer .notice.error");
    assert.equal(await page.getByRole("dialog", { name: "How this page was read" }).count(), 1);
    await page.unroute("**/explain?*");
    await page.click(".drawer .notice button");
    await page.waitForSelector(".drawer .bar");
    assert.equal(await page.evaluate(() => document.activeElement.id), "explain-title");
    assert.match(await page.textContent(".drawer .bar ~ .muted"), /Both pages have the same 20 posts/);
    await drawn("");
    await drawn("&memory=off", 1);
    await page.keyboard.press("Escape");
    await page.waitForFunction(() => !document.querySelector(".drawer"));
    await page.click(".seam a");
    await page.waitForSelector(".drawer .scatter");
    await drawn(`&cursor=${second.searchParams.get("cursor")}`);
    await page.context().close();
  },

  /** Many new posts leave a gap, which fills upwards and keeps what is being read in its place. */
  async gaps() {
    // Without animations: what moves slowly has no place yet.
    const page = await open(`/home/${reader}?include_self=1`, { reducedMotion: "reduce" });
    await page.waitForSelector("post-composer form");
    const [newest] = await ids(page);
    for (let n = 0; n < 90; n += 1) {
      await api("POST", `/v1/users/${settings.author}/posts`, { content: `gap ${n}` });
    }
    await api("POST", `/v1/users/${reader}/posts`, { content: "own" });
    // A follow may add posts anywhere, so the newest page is loaded.
    await api("PUT", `/v1/users/${reader}/following/4000000000`);
    await page.waitForFunction(() => document.querySelector("post-feed").mustReload && document.querySelector("post-feed").waiting.size === 90);
    await page.click(".fresh button");
    await page.waitForSelector(".gap button");
    assert.equal((await ids(page)).indexOf(newest), 20, "the newest page is above the gap");
    const fill = async (shown) => {
      const below = await page.$eval(".gap", (gap) => {
        gap.scrollIntoView({ block: "center" });
        return gap.nextElementSibling.id.slice(5);
      });
      const before = await top(page, below);
      await page.click(".gap button");
      await page.waitForFunction((count) => document.querySelectorAll("article.post").length >= count, shown);
      await page.waitForFunction(() => !document.querySelector(".gap button:disabled"));
      assert.equal(await top(page, below), before, "what is read stays in its place");
      assert.equal((await ids(page)).indexOf(newest), shown);
    };
    await fill(70);
    await showOpen("gap", page, () => page.$eval(".gap", (gap) => gap.scrollIntoView({ block: "center" })));
    await page.setViewportSize({ width: 1280, height: 800 });
    await fill(91);
    assert.equal(await page.locator(".gap").count(), 0);
    const feed = await api("GET", `/v1/users/${reader}/feed?limit=100&include_self=1`);
    assert.deepEqual((await ids(page)).slice(0, 100), feed.posts.map((post) => `${post.author_id}-${post.post_id}`));
    await page.context().close();
  },

  /** A credential moves into a cookie that scripts cannot read. Each listener has its own. */
  async signing() {
    const { guarded, operators, token, key } = settings;
    const page = await open(`${guarded}/`);
    await showOpen("sign-in", page);
    await page.setViewportSize({ width: 1280, height: 800 });
    await page.fill("#credential", "wrong");
    await page.keyboard.press("Enter");
    await page.waitForSelector(".notice.error");
    await showOpen("sign-in-refused", page);
    await page.setViewportSize({ width: 1280, height: 800 });
    await page.fill("#credential", token);
    await page.keyboard.press("Enter");
    await page.waitForURL(`${guarded}/home/${reader}`);
    const context = page.context();
    const board = await open(`${operators}/shards`, { context });
    await board.fill("#credential", key);
    await board.keyboard.press("Enter");
    await board.waitForURL(`${operators}/shards`);
    await board.waitForSelector("text=Last check of the servers");
    await showOpen("shards-checked", board, () => board.locator("#findings-title").scrollIntoViewIfNeeded());
    assert.match(await board.textContent(".summary"), /All 4 shards/);
    await page.reload();
    assert.equal((await ids(page)).length > 0, true, "both listeners are signed in");
    const cookies = (await context.cookies()).filter((cookie) => cookie.value === token || cookie.value === key);
    assert.equal(cookies.length, 2);
    assert.ok(cookies.every((cookie) => cookie.httpOnly && cookie.sameSite === "Strict"));
    assert.ok(!(await page.evaluate(() => document.cookie)).includes("session"));
    await page.click("text=Sign out");
    await page.waitForSelector("#credential");
    await board.reload();
    assert.match(await board.textContent(".summary"), /All 4 shards/);
    await context.close();
  },

  /** If a shard does not answer, pages say so, and heal when it is back. */
  async outage() {
    const board = await open("/shards");
    assert.match(await board.textContent(".summary"), /All 4 shards on 2 servers are in service/);
    await ask("kill");
    await board.waitForSelector(".summary .state.missing");
    await show("shards-out", "/shards");
    await show("stale", `/home/${reader}`, (page) => page.waitForSelector(".notice.stale"));
    await show("partial", `${cold}/home/${reader}`, (page) => page.waitForSelector(".notice.partial"));
    const page = await open(`${cold}/home/${reader}`);
    await page.waitForSelector(".notice.partial");
    // The reader follows 2 to 9, and shards 0 and 2 do not answer.
    assert.match(await page.textContent(".notice.partial"), /^Shards s0 and s2 do not answer: posts by (4|5) authors may be missing/);
    await ask("start");
    await board.waitForSelector(".summary .state.ok");
    for (let tries = 0; (await page.isVisible(".notice")) && tries < 100; tries += 1) {
      await page.waitForTimeout(300);
      await page.reload();
    }
    assert.ok(!(await page.isVisible(".notice")));
    await page.context().close();
    await board.context().close();
  },

  finding,
  replying,
  editing,
  marking,
  pictures,
};

for (const name of settings.checks ?? Object.keys(checks)) {
  const began = Date.now();
  await checks[name]();
  console.log(`${name}: ${Date.now() - began} ms`);
}
await browser.close();
if (faults.length > 0) {
  console.log([...new Set(faults)].join("\n"));
  process.exit(1);
}
process.exit(0);
