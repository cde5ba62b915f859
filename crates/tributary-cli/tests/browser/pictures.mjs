// The states of the pages on the data of the demo, in both themes and widths, for people to look at.
import { api, ids, settings, show, toEnd } from "./driver.mjs";

const { demo, demoReader } = settings;
const home = `${demo}/home/${demoReader}`;
const composer = (page) => page.waitForSelector("post-composer form");

/** Scrolls until the button for new posts covers no link or button, in the page. */
function scrollToText() {
  const overlap = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  const button = document.querySelector(".fresh button");
  const targets = [...document.querySelectorAll("post-feed a, post-feed button")].filter((it) => it !== button);
  for (let y = 400; y < 1_200; y += 4) {
    scrollTo(0, y);
    const box = button.getBoundingClientRect();
    if (!targets.some((target) => overlap(target.getBoundingClientRect(), box))) return;
  }
  throw new Error("the button always covers another target");
}

export async function pictures() {
  const list = await fetch(`${demo}/v1/users/${demoReader}/following`);
  const author = `${home}/authors/${(await list.json()).following[0].user_id}`;
  const { posts } = await api("GET", `/v1/users/${demoReader}/feed?limit=100`, undefined, demo);
  const reply = posts.find((post) => post.reply_to);
  const repost = posts.find((post) => post.repost_of);
  await show("start", `${demo}/`);
  await show("found", `${home}/open?user=a`);
  await show("not-found", `${demo}/open?user=nobody`);
  await show("post", `${home}/posts/${reply.author_id}:${reply.post_id}`);
  await show("repost", `${home}/posts/${repost.author_id}:${repost.post_id}`);
  await show("reply", home, async (page) => {
    await composer(page);
    await page.locator("[data-action=reply]").first().click();
  });
  await show("home", home);
  await show("focus", home, async (page) => {
    await composer(page);
    for (let steps = 0; steps < 3; steps += 1) await page.keyboard.press("j");
  });
  await show("help", home, async (page) => {
    await composer(page);
    await page.keyboard.press("?");
  });
  await show("new", home, async (page) => {
    await composer(page);
    await page.evaluate(() => {
      const feed = document.querySelector("post-feed");
      feed.takeNews([1, 2, 3].map((n) => ({ type: "post", post: { author_id: "0", post_id: `${n}` } })), false);
    });
  }, (page) => page.evaluate(scrollToText));
  await show("loading", home, async (page) => {
    await page.route("**/home/**", () => {});
    await toEnd(page);
    await page.waitForSelector(".loading");
  }, toEnd);
  await show("failed", home, async (page) => {
    await page.route("**/home/**", (route) => route.abort());
    await toEnd(page);
    await page.waitForSelector(".notice.error");
  }, toEnd);
  await show("older", home, async (page) => {
    await composer(page);
    while ((await ids(page)).length < 40) {
      await toEnd(page);
      await page.waitForTimeout(50);
    }
  }, (page) => page.evaluate(() => document.querySelector(".seam").scrollIntoView({ block: "center" })));
  await show("own", `${home}/authors/${demoReader}`, (page) => page.fill("#compose", "A draft that is not sent yet 🎈"));
  await show("author", author);
  await show("following", `${home}/following`);
  await show("followers", `${home}/followers`);
  await show("muted", `${home}/mutes`);
  await show("empty", `${demo}/home/987654`);
  await show("end", `${author}?limit=100`, (page) => page.waitForSelector(".end"), toEnd);
  await show("explain", home, async (page) => {
    await page.click(".head .explain-link");
    await page.waitForSelector(".drawer .scatter");
  });
  await show("compare", home, async (page) => {
    await page.click(".head .explain-link");
    await page.click(".drawer .again a");
    await page.waitForSelector(".drawer .bar");
  });
  await show("explain-page", `${home}/explain?memory=off`);
  const charts = (page) => page.waitForSelector(".chart polyline", { state: "attached" });
  await show("shards", `${demo}/shards`, charts);
  await show("shards-whole", `${demo}/shards`, charts, undefined, { fullPage: true });
  await show("error", `${demo}/home/nobody`);
}
