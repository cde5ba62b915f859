// What people do with each other on the data of the demo: find a user, reply and repost.
import assert from "node:assert/strict";
import { api, go, ids, open, settings, showOpen } from "./driver.mjs";

const { demo, demoReader } = settings;
const own = `${demo}/home/${demoReader}/authors/${demoReader}`;
const remove = (id) => api("DELETE", `/v1/users/${demoReader}/posts/${id.split("-")[1]}`, undefined, demo);

/** The handle at the end of a user's names. */
const handleIn = (names) => /@(\S+)$/.exec(names)[1];

/** A user is found by the beginning of a handle, without scripts. */
export async function finding() {
  const page = await open(`${demo}/`, { javaScriptEnabled: false });
  const handle = handleIn(await page.textContent(".people li a > span"));
  await page.fill("#user", `@${handle.slice(0, 4).toUpperCase()}`);
  await page.keyboard.press("Enter");
  await page.waitForSelector("h2.label");
  const names = await page.$$eval(".people li a > span", (all) => all.map((one) => one.textContent));
  assert.ok(names.length > 1 && names.every((name) => handleIn(name).startsWith(handle.slice(0, 4))), names);
  await go(page, ".people li a");
  assert.equal(await page.textContent(".me span"), names[0]);
  await page.fill("#find", handle);
  await page.keyboard.press("Enter");
  await page.waitForSelector(".head.author");
  assert.equal(handleIn(await page.textContent("h1")), handle);
  await page.context().close();
}

/** The line above the posts that were seen is there on another device too. */
export async function marking() {
  // Nothing else opens the pages of this reader: a marker moves towards newer posts only.
  const reader = "12";
  const path = `/v1/users/${reader}/feed/marker`;
  const { posts } = await api("GET", `/v1/users/${reader}/feed`, undefined, demo);
  const [newest, , seen] = posts;
  await api("PUT", path, { author_id: seen.author_id, post_id: seen.post_id }, demo);
  const page = await open(`${demo}/home/${reader}`);
  await page.waitForSelector(`.read-marker + #post-${seen.author_id}-${seen.post_id}`);
  await showOpen("seen", page);
  await page.goto(`${demo}/`);
  const marked = async () => (await api("GET", path, undefined, demo)).marker.post.post_id;
  for (let tries = 0; (await marked()) !== newest.post_id; tries += 1) {
    assert.ok(tries < 100, "the marker has not moved");
    await page.waitForTimeout(100);
  }
  await page.context().close();
}

/** An edit shows the new text and a mark, also after a reload. */
export async function editing() {
  const { post_id: id } = await api("POST", `/v1/users/${demoReader}/posts`, { content: "Before" }, demo);
  const page = await open(own);
  const post = page.locator(`#post-${demoReader}-${id}`);
  await post.locator("[data-action=edit]").click();
  assert.equal(await page.inputValue("#respond textarea"), "Before");
  await showOpen("edit", page);
  await page.fill("#respond textarea", "After <i>");
  await page.keyboard.press("Control+Enter");
  await post.locator(".edited").waitFor();
  assert.equal(await post.locator(".text").textContent(), "After <i>");
  await page.reload();
  await post.locator(".edited").waitFor();
  assert.equal(await post.locator(".text").textContent(), "After <i>");
  await showOpen("edited", page);
  await api("DELETE", `/v1/users/${demoReader}/posts/${id}`, undefined, demo);
  await page.context().close();
}

/** A reply links to the post that it answers, and a repost without words shows the other post. */
export async function replying() {
  const page = await open(`${demo}/home/${demoReader}`);
  await page.waitForSelector("post-composer form");
  const post = page.locator("article.post:not(:has(.original))").first();
  const [author, text] = [await post.locator("h2 a").first().textContent(), await post.locator(".text").textContent()];
  const respond = async (action, words) => {
    await post.locator(`[data-action=${action}]`).click();
    assert.equal(await page.textContent("#respond .original .text"), text);
    assert.equal(await page.evaluate(() => document.activeElement.id), "response");
    await page.keyboard.insertText(words);
    await page.click("#respond .composer .primary");
    await page.waitForFunction(() => !document.querySelector("#respond[open]"));
    await page.waitForSelector(".toast a");
  };
  await respond("reply", "An answer <b>with</b> signs 🎈");
  await respond("repost", "");
  await page.goto(own);
  const [repost, reply] = await ids(page);
  const shown = (id, part) => page.textContent(`#post-${id} ${part}`);
  assert.match(await shown(repost, "h2"), /^Reposted by /);
  assert.equal(await shown(repost, ".original .by a"), author);
  assert.equal(await shown(repost, ".original .text"), text);
  assert.equal(await shown(reply, ".text"), "An answer <b>with</b> signs 🎈");
  await go(page, `#post-${reply} .reference a`);
  assert.equal(await page.locator("article.post").last().locator("h2 a").first().textContent(), author);
  for (const id of [repost, reply]) await remove(id);
  await page.context().close();
}
