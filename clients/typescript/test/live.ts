// Uses the client against a running server, as a user of it would. The server's test starts this
// with an address, and with a credential that may act as every user.

import { Tributary, TributaryError } from "../src/index.js";

declare const process: { env: Record<string, string | undefined> };

const url = process.env["TRIBUTARY_URL"] ?? "";
const credential = process.env["TRIBUTARY_CREDENTIAL"] ?? "";
const [author, reader, other] = ["7001", "7002", "7003"] as const;

function equal(found: unknown, expected: unknown, what: string): void {
  const [a, b] = [JSON.stringify(found), JSON.stringify(expected)];
  if (a !== b) throw new Error(`${what}: ${a} instead of ${b}`);
}

async function fails(action: Promise<unknown>): Promise<TributaryError> {
  const outcome = await action.catch((error: unknown) => error);
  if (!(outcome instanceof TributaryError)) throw new Error(`no error: ${outcome}`);
  return outcome;
}

/** A server in front of the real one that refuses the first attempts. */
function flaky(refusals: Response[]): typeof fetch {
  return async (input, init) => refusals.shift() ?? fetch(input, init);
}

async function pagesAndFreshness(): Promise<void> {
  const client = new Tributary({ url, credential: async () => credential });
  await client.follow(reader, author);
  equal(await client.followAll(reader, [author, other]), { added: 1 }, "new follows");
  const texts = Array.from({ length: 25 }, (_, n) => `post ${n}`);
  for (const text of texts) await client.publish(author, text);
  // Without the tokens of the writes, the last posts could be absent.
  const found: string[] = [];
  for await (const post of client.homePosts(reader, { limit: 10 })) found.push(post.content);
  equal(found, [...texts].reverse(), "the home timeline");
  const { posts } = await client.homeTimeline(reader, { limit: 3 });
  const place = `${author}:${posts[1]?.post_id}`;
  const around = await client.homeTimelineAround(reader, place, { limit: 3 });
  equal(around.posts, posts, "the page around a post");
  const list: string[] = [];
  for await (const { user_id } of client.followees(reader, { limit: 1 })) list.push(user_id);
  equal(list, [author, other], "the follow list");

  const later = new Tributary({ url, credential });
  later.freshness = client.freshness;
  for await (const post of later.authorPosts(author, { limit: 1 })) {
    equal(post.content, "post 24", "the newest post");
    await client.deletePost(author, post.post_id);
    equal((await fails(client.post(author, post.post_id))).status, 404, "a deleted post");
    break;
  }
  later.freshness = "AAAA";
  equal((await later.homeTimeline(reader)).complete, true, "a page after tokens became invalid");
}

async function news(): Promise<void> {
  const client = new Tributary({ url, credential });
  const { token } = await client.news(reader);
  const post = await client.publish(author, "news");
  if (token === null) throw new Error("news need memory");
  // News are read as memory has them: it follows the log some milliseconds behind a write. So they
  // can also have changes that were made before the token was read.
  const posts = async () => {
    const { events } = await client.news(reader, token);
    return events.filter((event) => event.type === "post");
  };
  let found = await posts();
  for (let tries = 0; found.length === 0 && tries < 200; tries += 1) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    found = await posts();
  }
  equal(found, [{ type: "post", post }], "events");
  equal((await client.newsCount(reader, token)).posts, 1, "the number of new posts");
}

/** A connection whose first stream breaks after its first event. */
function breaking(): typeof fetch {
  let broken = false;
  return async (input, init) => {
    const response = await fetch(input, init);
    if (broken || response.body === null || !String(input).includes("/feed/live")) return response;
    broken = true;
    const decoder = new TextDecoder();
    const cut = new TransformStream<Uint8Array, Uint8Array>({
      transform(chunk, controller) {
        controller.enqueue(chunk);
        const isEvent = decoder.decode(chunk, { stream: true }).includes("event:");
        if (isEvent) controller.error(new Error("the connection broke"));
      },
    });
    return new Response(response.body.pipeThrough(cut), response);
  };
}

async function streams(): Promise<void> {
  const client = new Tributary({ url, credential, fetch: breaking() });
  const { token } = await client.news(reader);
  if (token === null) throw new Error("streams need memory");
  const writer = new Tributary({ url, credential });
  await writer.publish(author, "live 0");
  const found: string[] = [];
  const stop = new AbortController();
  const options = { since: token, signal: stop.signal };
  for await (const event of client.subscribe(reader, options)) {
    if (event.type !== "post") throw new Error(`an event ${event.type}`);
    found.push(event.post.content);
    if (found.length === 3) stop.abort();
    else await writer.publish(author, `live ${found.length}`);
  }
  equal(found, ["live 0", "live 1", "live 2"], "the events of a stream");
  // Many events that need a page cost one token, or requests would get too long.
  const lists = new Tributary({ url, credential });
  const start = await lists.news(reader);
  for (let number = 0; number < 5; number += 1) await writer.follow(reader, `${8_000 + number}`);
  let follows = 0;
  for await (const event of lists.subscribe(reader, { since: start.token ?? "" })) {
    if (event.type === "follow") follows += 1;
    if (follows === 5) break;
  }
  equal(lists.freshness.split(",").length, 1, "the tokens of a stream");
  const outcome = await fails(client.subscribe(reader, { since: "AAAA" }).next());
  equal(outcome.problem?.code, "invalid_freshness", "a bad token of a stream");
}

async function errorsAndRepeats(): Promise<void> {
  const busy = (wait = "0") =>
    new Response(null, { status: 503, headers: { "Retry-After": wait } });
  // A date in the past, and a date in the future: two pauses, of which the second takes time.
  const soon = new Date(Date.now() + 2_000);
  const dates = [busy(new Date(0).toUTCString()), busy(soon.toUTCString())];
  const client = new Tributary({ url, credential, fetch: flaky(dates) });
  equal((await client.homeTimeline(reader)).complete, true, "an answer after two refusals");
  equal(Date.now() + 5 >= Math.floor(soon.getTime() / 1_000) * 1_000, true, "a pause until a date");
  const impatient = new Tributary({ url, credential, retries: 0, fetch: flaky([busy()]) });
  equal((await fails(impatient.homeTimeline(reader))).status, 503, "a refusal");

  const one = await client.publish(author, "once", "key-of-one-post");
  const again = await client.publish(author, "once", "key-of-one-post");
  equal(again, one, "a repeated post");
  equal(await client.posts([`${author}:1`, `${author}:${one.post_id}`]), [one], "posts");
  const address = { author_id: author, post_id: one.post_id };
  const repost = await client.publishPost(other, { repost_of: address });
  equal(repost.repost_of, address, "a repost");
  const edited = await client.editPost(author, one.post_id, "twice");
  equal(await client.post(author, one.post_id), edited, "an edited post");
  equal([edited.content, typeof edited.edited_at], ["twice", "string"], "the text and the time");
  equal(await client.readMarker(other), null, "no marker");
  const marker = await client.markRead(other, address);
  equal(marker?.post, address, "a marker");
  equal(await client.readMarker(other), marker, "the same marker");
  await client.follow(reader, other);
  const shown: unknown[] = [];
  for await (const post of client.homePosts(reader, { limit: 2, reposts: "collapse" })) {
    shown.push(post.post_id);
  }
  equal(shown.includes(one.post_id), false, "a post that its repost has shown");
  equal(shown[0], repost.post_id, "the repost");
  const reused = await fails(client.publish(author, "another", "key-of-one-post"));
  equal(reused.problem?.code, "idempotency_key_reused", "another text with the key");
  equal((await fails(client.homeTimeline("x"))).problem?.code, "invalid_user_id", "a bad id");
  const unknown = new Tributary({ url, credential: "nothing" });
  equal((await fails(unknown.homeTimeline(reader))).status, 401, "an unknown credential");
  const aborted = AbortSignal.abort();
  const outcome = await client.homeTimeline(reader, { signal: aborted }).catch(() => "aborted");
  equal(outcome, "aborted", "an aborted request");
}

await pagesAndFreshness();
await news();
await streams();
await errorsAndRepeats();
console.log("ok");
