// Drives the pages in a real browser. The Rust test `browser.rs` starts it with its settings as JSON
// in the first argument, and answers the lines that it prints: see `ask`.
//
// Every check of every page also asserts that nothing comes from another origin, that no policy is
// violated, that the console has no error, and that axe finds nothing.
import { readFileSync, mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import assert from "node:assert/strict";

const settings = JSON.parse(process.argv[2]);
const { base, cold, demo, shots, reader, oracle } = settings;
const require = createRequire(`${settings.modules}/`);
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
const VIEWS = [["light", 1280], ["dark", 1280], ["light", 360], ["dark", 360]];

mkdirSync(shots, { recursive: true });
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Asks the Rust test to do something, and waits until it is done. */
async function ask(what) {
  console.log(`ASK ${what}`);
  const { value } = await answers.next();
  assert.equal(value, "done", what);
}

const browser = await chromium.launch({ executablePath: settings.chromium, args: ["--no-sandbox"] });
const faults = [];

/** A new page, whose faults are collected. The path may name another server than `base`. */
async function open(path, options = {}) {
  const address = new URL(path, base);
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(20000);
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== address.origin) faults.push(`request to ${request.url()}`);
  });
  page.on("console", (message) => {
    // A refused request is a state of its own, which the checks assert.
    const expected = message.text().startsWith("Failed to load resource");
    if (message.type() === "error" && !expected) faults.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => faults.push(`script: ${error.stack}`));
  await page.goto(address.href);
  return page;
}

const ids = (page) => page.$$eval("article.post", (posts) => posts.map((post) => post.id.slice(5)));
const top = (page, id) => page.$eval(`#post-${id}`, (post) => Math.round(post.getBoundingClientRect().top));

/** The id of the first post on the screen. */
const firstShown = (page) => page.evaluate(() => {
  const posts = [...document.querySelectorAll("article.post")];
  return posts.find((post) => post.getBoundingClientRect().top >= 0).id.slice(5);
});

/** Sends a request to the API as another client. */
async function api(method, path, body) {
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch(base + path, { method, headers, body: body && JSON.stringify(body) });
  assert.ok(answer.ok, `${method} ${path}: ${answer.status}`);
  return answer.status === 204 ? null : answer.json();
}

/** Takes the picture of a state in both themes and widths, and runs axe on each. */
async function show(name, path, prepare = async () => {}) {
  for (const [colorScheme, width] of VIEWS) {
    const page = await open(path, { colorScheme, viewport: { width, height: 800 } });
    await prepare(page);
    await page.screenshot({ path: `${shots}/${name}-${colorScheme}-${width}.png` });
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    if (wide > 0) faults.push(`${name} at ${width}: ${wide} pixels too wide`);
    const script = `(() => { ${axe}; return axe.run(document, { runOnly: ${JSON.stringify(RULES)} }); })()`;
    const found = await page.evaluate(script);
    assert.ok(found.passes.length > 5, "axe has run");
    for (const { id, nodes } of found.violations) {
      faults.push(`axe: ${name} ${colorScheme} ${width}: ${id}: ${nodes[0].html}`);
    }
    await page.context().close();
  }
}

const checks = {
  /** Ten pages by scrolling are the posts of the API, in its order. */
  async scrolling() {
    const page = await open(`/home/${reader}`);
    let found = await ids(page);
    while (found.length < oracle.length) {
      await page.evaluate(() => scrollTo(0, document.documentElement.scrollHeight));
      const before = found.length;
      await page.waitForFunction((count) => document.querySelectorAll("article.post").length > count, before);
      found = await ids(page);
    }
    assert.deepEqual(found, oracle);
    await page.waitForSelector(".end");
    await page.context().close();
  },

  /** A reload shows the same post at the same place. */
  async reloading() {
    const page = await open(`/home/${reader}`);
    await page.waitForSelector("post-composer form");
    while ((await ids(page)).length < 45) {
      await page.evaluate(() => scrollTo(0, document.documentElement.scrollHeight));
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
    await page.keyboard.press(".");
    await page.waitForFunction((id) => document.activeElement.id === `post-${id}`, `${settings.author}-${posted[0].post_id}`);
    const shown = (await ids(page)).slice(0, 3);
    assert.deepEqual(shown, posted.map((post) => `${settings.author}-${post.post_id}`));
    for (const post of posted) await api("DELETE", `/v1/users/${settings.author}/posts/${post.post_id}`);
    await page.waitForFunction(() => !document.querySelector(".posts").textContent.includes("live 0"));
    await page.context().close();
  },

  /** What people write is text: markup, emoji, other directions, newlines. */
  async composing() {
    const page = await open(`/home/${reader}/authors/${reader}`);
    const text = "<script>alert('x')</script> & \"y\"\nشكرا 👩‍💻🇳🇱";
    await page.keyboard.press("n");
    await page.fill("#compose", text);
    assert.match(await page.textContent("#count"), /^\d+ of 10,000 bytes$/);
    await page.keyboard.press("Control+Enter");
    await page.waitForSelector(".post");
    const post = page.locator("article.post").first();
    await page.waitForFunction((text) => document.querySelector("article.post .text").textContent === text, text);
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
    await page.context().close();
  },

  /** A follow brings the author's posts, an unfollow takes them away, also on the open page. */
  async following() {
    const { author } = settings;
    const home = await open(`/home/${reader}`);
    const page = await open(`/home/${reader}/authors/${author}`);
    await page.click("follow-button button");
    await page.waitForSelector("follow-button .primary:enabled");
    await home.waitForFunction((author) => !document.querySelector(`[data-author="${author}"]`), author);
    await page.click(".sections a");
    assert.ok(!(await ids(page)).some((id) => id.startsWith(`${author}-`)));
    await page.goto(`${base}/home/${reader}/authors/${author}`);
    await page.click("follow-button button");
    await page.waitForSelector("follow-button button:not(.primary):enabled");
    await page.click(".sections a");
    assert.ok((await ids(page)).some((id) => id.startsWith(`${author}-`)));
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
      await page.click("a[rel=next]");
      found = found.concat(await ids(page));
    }
    assert.deepEqual(found, oracle);
    await page.click("a[rel=prev]");
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
    await page.evaluate(() => scrollTo(0, document.documentElement.scrollHeight));
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
    await page.click(".drawer .again a");
    await page.waitForSelector(".drawer .bar");
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

  /** The states of the pages, in both themes and widths. */
  async pictures() {
    const list = await fetch(`${demo}/v1/users/${settings.demoReader}/following`);
    const author = (await list.json()).following[0].user_id;
    await show("start", `${demo}/`);
    await show("home", `${demo}/home/${settings.demoReader}`);
    await show("focus", `${demo}/home/${settings.demoReader}`, async (page) => {
      await page.waitForSelector("post-composer form");
      for (let steps = 0; steps < 3; steps += 1) await page.keyboard.press("j");
    });
    await show("help", `${demo}/home/${settings.demoReader}`, async (page) => {
      await page.waitForSelector("post-composer form");
      await page.keyboard.press("?");
    });
    await show("new", `${demo}/home/${settings.demoReader}`, async (page) => {
      await page.waitForSelector("post-composer form");
      await page.evaluate(() => {
        scrollTo(0, 400);
        const feed = document.querySelector("post-feed");
        feed.takeNews([1, 2, 3].map((n) => ({ type: "post", post: { author_id: "0", post_id: `${n}` } })), false);
      });
    });
    await show("loading", `${demo}/home/${settings.demoReader}`, async (page) => {
      await page.route("**/home/**", () => {});
      await page.evaluate(() => scrollTo(0, document.documentElement.scrollHeight));
      await page.waitForSelector(".loading");
      await page.evaluate(() => scrollTo(0, document.documentElement.scrollHeight));
    });
    await show("failed", `${demo}/home/${settings.demoReader}`, async (page) => {
      await page.route("**/home/**", (route) => route.abort());
      await page.evaluate(() => scrollTo(0, document.documentElement.scrollHeight));
      await page.waitForSelector(".notice.error");
      await page.evaluate(() => scrollTo(0, document.documentElement.scrollHeight));
    });
    await show("own", `${demo}/home/${settings.demoReader}/authors/${settings.demoReader}`, async (page) => {
      await page.fill("#compose", "A draft that is not sent yet 🎈");
    });
    await show("author", `${demo}/home/${settings.demoReader}/authors/${author}`);
    await show("following", `${demo}/home/${settings.demoReader}/following`);
    await show("empty", `${demo}/home/987654`);
    await show("end", `${demo}/home/${settings.demoReader}/authors/${author}`, async (page) => {
      while (!(await page.isVisible(".end"))) {
        await page.evaluate(() => scrollTo(0, document.documentElement.scrollHeight));
        await page.waitForTimeout(100);
      }
      await page.evaluate(() => scrollTo(0, document.documentElement.scrollHeight));
    });
    await show("shards", `${demo}/shards`, (page) => page.waitForTimeout(300));
    await show("error", `${demo}/home/nobody`);
  },
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
