// The browser, the pages that it opens, and the Rust test `browser.rs`, which starts it.
//
// Every page that is opened also asserts that nothing comes from another origin, that no policy is
// violated, and that the console has no error; `show` asserts that axe finds nothing.
import { readFileSync, mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import assert from "node:assert/strict";

export const settings = JSON.parse(process.argv[2]);
const require = createRequire(`${settings.modules}/`);
const { chromium } = require("playwright-core");
const AXE = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
const VIEW_RULES = ["color-contrast", "target-size", "link-in-text-block", "scrollable-region-focusable"];
const VIEWS = [["light", 1280], ["dark", 1280], ["dark", 360], ["light", 360]];

mkdirSync(settings.shots, { recursive: true });
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Asks the Rust test to do something, and waits until it is done. */
export async function ask(what) {
  console.log(`ASK ${what}`);
  const { value } = await answers.next();
  assert.equal(value, "done", what);
}

export const browser = await chromium.launch({ executablePath: settings.chromium, args: ["--no-sandbox"] });
export const faults = [];

/** A new page, whose faults are collected. The path may name another server than the usual one. */
export async function open(path, options = {}) {
  const address = new URL(path, settings.base);
  const context = options.context ?? await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(20000);
  page.on("request", (request) => {
    const from = address.protocol === "about:" ? settings.base : address.origin;
    if (new URL(request.url()).origin !== from) faults.push(`request to ${request.url()}`);
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

/** Opens a page, and closes it once `check` is done with it. */
export async function visit(path, check, options) {
  const page = await open(path, options);
  await check(page);
  await page.context().close();
}

export const ids = (page) => page.$$eval("article.post", (posts) => posts.map((post) => post.id.slice(5)));
export const top = (page, id) => page.$eval(`#post-${id}`, (post) => Math.round(post.getBoundingClientRect().top));
export const toEnd = (page) => page.evaluate(() => scrollTo(0, document.documentElement.scrollHeight));

/** Clicks a link, and waits until its page is there. */
export async function go(page, link) {
  const from = page.url();
  await page.click(link);
  await page.waitForURL((address) => address.href !== from, { waitUntil: "domcontentloaded" });
}

/** The id of the first post on the screen. */
export const firstShown = (page) => page.evaluate(() => {
  const posts = [...document.querySelectorAll("article.post")];
  return posts.find((post) => post.getBoundingClientRect().top >= 0).id.slice(5);
});

/** Sends a request to the API as another client. */
export async function api(method, path, body, base = settings.base) {
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch(base + path, { method, headers, body: body && JSON.stringify(body) });
  assert.ok(answer.ok, `${method} ${path}: ${answer.status}`);
  return answer.status === 204 ? null : answer.json();
}

let states = 0;

/**
 * Takes the picture of a state in both themes and widths, and runs axe on each. The page is opened
 * once: it must look right when its window changes too. `settle` runs after each change. axe takes
 * most of the time: two of the four, one of each theme and width, have all rules; the others have
 * those about colours and sizes. The next state has them the other way round.
 */
export async function show(name, path, prepare = async () => {}, settle = undefined, picture = {}) {
  await visit(path, async (page) => {
    await prepare(page);
    await showOpen(name, page, settle, picture);
  });
}

/** If the page is wider than its window: the first element that is too wide. Runs in the page. */
function tooWide() {
  if (document.documentElement.scrollWidth <= innerWidth) return "";
  const isWide = (one) => one.getBoundingClientRect().right > innerWidth && !one.closest(".scroll");
  return [...document.body.querySelectorAll("*")].filter(isWide).map((one) => one.outerHTML.slice(0, 120)).at(-1) ?? "the page";
}

/** The same for a page that is open. */
export async function showOpen(name, page, settle = async () => {}, picture = {}) {
  await page.evaluate(`${AXE}; 0`);
  states += 1;
  for (const [index, [colorScheme, width]] of VIEWS.entries()) {
    await page.emulateMedia({ colorScheme });
    await page.setViewportSize({ width, height: 800 });
    await settle(page);
    await page.screenshot({ path: `${settings.shots}/${name}-${colorScheme}-${width}.png`, ...picture });
    const wide = await page.evaluate(tooWide);
    if (wide) faults.push(`${name} at ${width}: too wide: ${wide}`);
    const isWhole = (index + states) % 2 === 0;
    const runOnly = isWhole ? { type: "tag", values: TAGS } : { type: "rule", values: VIEW_RULES };
    const found = await page.evaluate(async (runOnly) => {
      const { passes, violations } = await axe.run(document, { runOnly, resultTypes: ["violations"] });
      return { passed: passes.length, violations: violations.map(({ id, nodes }) => `${id}: ${nodes[0].html}`) };
    }, runOnly);
    assert.ok(found.passed > (isWhole ? 5 : 0), "axe has run");
    for (const violation of found.violations) faults.push(`axe: ${name} ${colorScheme} ${width}: ${violation}`);
  }
}
