// The client. It sends requests, repeats those that may be repeated, carries freshness tokens, and
// iterates pages.

import { routes } from "./api.js";
import { blocks } from "./live.js";
import type {
  Cursor,
  Followee,
  Following,
  FollowsChanged,
  Id,
  NewPost,
  News,
  NewsCount,
  Marker,
  NewsEvent,
  Operations,
  Post,
  PostNumbers,
  PostReference,
  Problem,
  TimelinePage,
  Token,
} from "./api.js";

const FRESHNESS = "Tributary-Freshness";
/** Most tokens that are sent. A server accepts 8,192 characters, and that of a write has about 75. */
const TOKENS_MAX = 64;
/** A server that asks for a longer pause is tried again after this one. */
const WAIT_SECONDS_MAX = 60;
/** The events after which a client reads the timeline again. */
const READ_AGAIN: LiveEvent["type"][] = ["gap", "follow", "unmute", "unblock"];

export interface Options {
  /** The address of the server, with a prefix if it has one. */
  url: string;
  /** A service key or a user token. A function is called for each request. */
  credential?: string | (() => string | Promise<string>);
  /** Attempts after the first one, for answers 429 and 503 and for broken connections: 3. */
  retries?: number;
  /** In place of the global `fetch`. */
  fetch?: typeof fetch;
}

export interface PageOptions {
  /** Entries on a page, 1 to 100. */
  limit?: number;
  /** Where to begin; the first page if absent. */
  cursor?: Cursor;
  /** Fail with `incomplete` instead of accepting an incomplete page. */
  require?: "complete";
  signal?: AbortSignal;
}

export interface HomeOptions extends PageOptions {
  /** Skip posts that the pages so far have shown, as themselves or as reposts. */
  reposts?: "collapse";
}

/** The parameters of a call. */
export interface Call<K extends keyof Operations> {
  path: Operations[K]["path"];
  query?: Operations[K]["query"];
  body?: Operations[K]["body"];
  headers?: Record<string, string>;
  signal?: AbortSignal | undefined;
}

/** An event of a stream. `id` is the token after it; after `gap`, changes were lost. */
export type LiveEvent = { id: Token } & (NewsEvent | { type: "gap" });

/** An answer that is an error. */
export class TributaryError extends Error {
  override readonly name = "TributaryError";

  constructor(
    readonly status: number,
    /** `undefined` if the answer is not a problem document, for example that of a proxy. */
    readonly problem: Problem | undefined,
  ) {
    super(problem ? `${problem.code}: ${problem.detail}` : `the answer has the status ${status}`);
  }
}

/** A client for one reader: what it has written and seen is on every later page. */
export class Tributary {
  readonly #options: Options;
  #tokens: Token[] = [];

  constructor(options: Options) {
    this.#options = { ...options, url: options.url.replace(/\/+$/, "") };
  }

  /** The tokens that requests send, for example to continue in another process. */
  get freshness(): string {
    return this.#tokens.join(",");
  }

  set freshness(tokens: string) {
    this.#tokens = tokens.split(",").filter((token) => token !== "");
  }

  /** A page of the home timeline. */
  homeTimeline(user: Id, options: HomeOptions = {}): Promise<TimelinePage> {
    return this.call("home_timeline", page(user, options));
  }

  /** The page of the home timeline around a post, `author:post`. */
  homeTimelineAround(user: Id, around: string, options: PageOptions = {}): Promise<TimelinePage> {
    const { path, query, signal } = page(user, options);
    return this.call("home_timeline", { path, query: { ...query, around }, signal });
  }

  /** A page of the timeline of one author. */
  authorTimeline(user: Id, options: PageOptions = {}): Promise<TimelinePage> {
    return this.call("author_timeline", page(user, options));
  }

  /** A page of the users that a user follows. */
  following(user: Id, options: PageOptions = {}): Promise<Following> {
    return this.call("following", page(user, options));
  }

  /** All posts of the home timeline, newest first. */
  async *homePosts(user: Id, options: HomeOptions = {}): AsyncGenerator<Post, void, undefined> {
    const read = (cursor?: Cursor) => this.homeTimeline(user, at(options, cursor));
    for await (const { posts } of pages(read)) yield* posts;
  }

  /** All posts of one author, newest first. */
  async *authorPosts(user: Id, options: PageOptions = {}): AsyncGenerator<Post, void, undefined> {
    const read = (cursor?: Cursor) => this.authorTimeline(user, at(options, cursor));
    for await (const { posts } of pages(read)) yield* posts;
  }

  /** All users that a user follows, by rising id. */
  async *followees(user: Id, options: PageOptions = {}): AsyncGenerator<Followee, void, undefined> {
    const read = (cursor?: Cursor) => this.following(user, at(options, cursor));
    for await (const { following } of pages(read)) yield* following;
  }

  /** The events since a token. Without one, only the token to begin with. */
  async news(user: Id, since?: Token, signal?: AbortSignal): Promise<News> {
    const query = since === undefined ? {} : { since };
    const news = await this.call("news", { path: { user_id: user }, query, signal });
    if (!("events" in news)) throw new TypeError("the answer has no events");
    return news;
  }

  /** The number of posts that became visible since a token. */
  async newsCount(user: Id, since: Token, signal?: AbortSignal): Promise<NewsCount> {
    const query = { since, count: "1" } as const;
    const count = await this.call("news", { path: { user_id: user }, query, signal });
    if (!("posts" in count)) throw new TypeError("the answer has no number of posts");
    return count;
  }

  /**
   * The events of a home timeline as soon as they are visible, until `signal` aborts. It connects
   * again by itself, and misses and repeats nothing. After `gap`, `follow`, `unmute` and `unblock`,
   * read the timeline again: that page then includes everything up to the event.
   */
  async *subscribe(
    user: Id,
    options: { since?: Token; signal?: AbortSignal } = {},
  ): AsyncGenerator<LiveEvent, void, undefined> {
    const { since, signal } = options;
    let last = since;
    /** The token of the last event after which pages are read again. */
    let newest: Token | undefined;
    let retry = 1_000;
    for (let attempt = 0; !signal?.aborted; attempt += 1) {
      try {
        const query = last === undefined ? {} : { since: last };
        const response = await this.send("live", { path: { user_id: user }, query, signal });
        for await (const block of blocks(response)) {
          attempt = 0;
          retry = block.retry ?? retry;
          last = block.id ?? last;
          if (block.data === undefined || last === undefined) continue;
          const event = { ...JSON.parse(block.data), id: last } as LiveEvent;
          if (READ_AGAIN.includes(event.type)) {
            // It includes the earlier ones of this stream.
            this.#tokens = this.#tokens.filter((known) => known !== newest);
            this.#add(last);
            newest = last;
          }
          yield event;
        }
      } catch (error) {
        if (signal?.aborted) return;
        if (error instanceof TributaryError && !passes(error.status)) throw error;
      }
      await pause(retry / 1_000, attempt, signal).catch(() => undefined);
    }
  }

  /** The place down to which a user has read; null if there is none. */
  async readMarker(user: Id): Promise<Marker | null> {
    return (await this.call("read_marker", { path: { user_id: user } })).marker;
  }

  /** Moves the read marker to a post, unless it is at a newer one. Answers with the marker. */
  async markRead(user: Id, post: PostReference): Promise<Marker | null> {
    return (await this.call("mark_read", { path: { user_id: user }, body: post })).marker;
  }

  /** Stores a post. It is stored once, also if the request is repeated with the same key. */
  publish(user: Id, content: string, key: string = crypto.randomUUID()): Promise<Post> {
    return this.publishPost(user, { content }, key);
  }

  /** As `publish`, for a reply or a repost. */
  publishPost(user: Id, body: NewPost, key: string = crypto.randomUUID()): Promise<Post> {
    const headers = { "Idempotency-Key": key };
    return this.call("publish", { path: { user_id: user }, body, headers });
  }

  post(user: Id, post: Id): Promise<Post> {
    return this.call("read_post", { path: { user_id: user, post_id: post } });
  }

  /** The posts with up to 100 addresses `author:post`. Fails if a shard does not answer. */
  async posts(addresses: string[]): Promise<Post[]> {
    const query = { posts: addresses.join(","), require: "complete" as const };
    const { posts, rest } = await this.call("read_posts", { path: {}, query });
    return rest.length > 0 ? [...posts, ...(await this.posts(rest))] : posts;
  }

  /**
   * The numbers of replies and reposts of up to 100 posts `author:post`. Fails if a shard does not
   * answer.
   */
  async postCounts(addresses: string[]): Promise<PostNumbers[]> {
    const query = { posts: addresses.join(","), require: "complete" as const };
    return (await this.call("count_posts", { path: {}, query })).posts;
  }

  /** Replaces the text of a post. */
  editPost(user: Id, post: Id, content: string): Promise<Post> {
    const path = { user_id: user, post_id: post };
    return this.call("edit_post", { path, body: { content } });
  }

  async deletePost(user: Id, post: Id): Promise<void> {
    await this.call("delete_post", { path: { user_id: user, post_id: post } });
  }

  async follow(user: Id, followee: Id): Promise<void> {
    await this.call("follow", { path: { user_id: user, followee_id: followee } });
  }

  async unfollow(user: Id, followee: Id): Promise<void> {
    await this.call("unfollow", { path: { user_id: user, followee_id: followee } });
  }

  /** Follows up to 1,000 users in one transaction. */
  followAll(user: Id, follow: Id[]): Promise<FollowsChanged> {
    return this.call("follow_all", { path: { user_id: user }, body: { follow } });
  }

  /** Unfollows up to 1,000 users in one transaction. */
  unfollowAll(user: Id, unfollow: Id[]): Promise<FollowsChanged> {
    return this.call("follow_all", { path: { user_id: user }, body: { unfollow } });
  }

  async mute(user: Id, muted: Id): Promise<void> {
    await this.call("mute", { path: { user_id: user, muted_id: muted } });
  }

  async unmute(user: Id, muted: Id): Promise<void> {
    await this.call("unmute", { path: { user_id: user, muted_id: muted } });
  }

  async block(user: Id, blocked: Id): Promise<void> {
    await this.call("block", { path: { user_id: user, blocked_id: blocked } });
  }

  async unblock(user: Id, blocked: Id): Promise<void> {
    await this.call("unblock", { path: { user_id: user, blocked_id: blocked } });
  }

  /** Calls any operation, for those that have no method of their own. */
  async call<K extends keyof Operations>(
    operation: K,
    call: Call<K>,
  ): Promise<Operations[K]["answer"]> {
    const response = await this.send(operation, call);
    if (response.status === 204) return undefined as Operations[K]["answer"];
    const isJson = response.headers.get("Content-Type") === "application/json";
    return (await (isJson ? response.json() : response.text())) as Operations[K]["answer"];
  }

  /** The answer to a call, as soon as its headers are there. Errors are thrown. */
  async send<K extends keyof Operations>(operation: K, call: Call<K>): Promise<Response> {
    const [method, path] = routes[operation];
    const url = this.#options.url + address(path, call.path) + search(call.query ?? {});
    // Without a key, a repeated request would store a second post.
    const isRepeatable = operation !== "publish" || call.headers?.["Idempotency-Key"] !== undefined;
    const retries = isRepeatable ? (this.#options.retries ?? 3) : 0;
    for (let attempt = 0; ; attempt += 1) {
      const sent = this.#tokens;
      const outcome = await this.#attempt(url, method, call, sent).catch((error: unknown) => {
        if (call.signal?.aborted || attempt >= retries) throw error;
        return undefined;
      });
      if (outcome?.ok) {
        this.#learn(method, outcome, sent);
        return outcome;
      }
      const again = outcome === undefined || outcome.status === 429 || outcome.status === 503;
      if (!again || attempt >= retries) {
        const error = await failure(outcome);
        if (!isBadToken(error) || sent.length === 0) throw error;
        // The server has other keys now: its answers bring new tokens.
        this.#tokens = this.#tokens.filter((known) => !sent.includes(known));
        continue;
      }
      await outcome?.body?.cancel();
      await pause(secondsToWait(outcome?.headers.get("Retry-After")), attempt, call.signal);
    }
  }

  async #attempt(
    url: string,
    method: string,
    call: Pick<Call<keyof Operations>, "body" | "headers" | "signal">,
    tokens: Token[],
  ): Promise<Response> {
    const headers = new Headers(call.headers);
    const { credential, fetch: send = fetch } = this.#options;
    const bearer = typeof credential === "function" ? await credential() : credential;
    if (bearer !== undefined) headers.set("Authorization", `Bearer ${bearer}`);
    if (method === "GET" && tokens.length > 0) headers.set(FRESHNESS, tokens.join(","));
    const init: RequestInit = { method, headers, signal: call.signal ?? null };
    if (call.body !== undefined) {
      headers.set("Content-Type", "application/json");
      init.body = JSON.stringify(call.body);
    }
    return send(url, init);
  }

  /** The token of a page includes those of its request. That of a write is added to them. */
  #learn(method: string, response: Response, sent: Token[]): void {
    const token = response.headers.get(FRESHNESS);
    if (token === null) return;
    if (method === "GET") this.#tokens = this.#tokens.filter((known) => !sent.includes(known));
    this.#add(token);
  }

  #add(token: Token): void {
    this.#tokens = [...this.#tokens, token].slice(-TOKENS_MAX);
  }
}

function page<O extends PageOptions>(user: Id, { signal, ...query }: O) {
  return { path: { user_id: user }, query, signal };
}

function at<O extends PageOptions>(options: O, cursor: Cursor | undefined): O {
  return cursor === undefined ? options : { ...options, cursor };
}

/** Follows `next` until it is null. */
async function* pages<P extends { next: Cursor | null }>(
  read: (cursor?: Cursor) => Promise<P>,
): AsyncGenerator<P, void, undefined> {
  let cursor: Cursor | null | undefined;
  do {
    const found: P = await read(cursor ?? undefined);
    yield found;
    cursor = found.next;
  } while (cursor !== null);
}

function address(path: string, parameters: Record<string, string>): string {
  return path.replace(/\{(\w+)\}/g, (_, name: string) =>
    encodeURIComponent(parameters[name] ?? ""),
  );
}

function search(parameters: Record<string, string | number | undefined>): string {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined);
  if (given.length === 0) return "";
  return `?${new URLSearchParams(given.map(([name, value]) => [name, String(value)]))}`;
}

function isBadToken(error: Error): boolean {
  return error instanceof TributaryError && error.problem?.code === "invalid_freshness";
}

async function failure(response: Response | undefined): Promise<Error> {
  if (response === undefined) return new TypeError("the server did not answer");
  const isProblem = response.headers.get("Content-Type") === "application/problem+json";
  const problem = isProblem ? ((await response.json()) as Problem) : undefined;
  return new TributaryError(response.status, problem);
}

/** Whether the same request can succeed later: after a limit, or when a server is back. */
function passes(status: number): boolean {
  return status === 429 || (status >= 500 && status !== 501);
}

/** The seconds that a `Retry-After` header asks for, as a number or a date; 1 without a valid one. */
function secondsToWait(header: string | null | undefined): number {
  const seconds = Number(header ?? 1);
  const wait = Number.isNaN(seconds) ? (Date.parse(header ?? "") - Date.now()) / 1_000 : seconds;
  return Number.isNaN(wait) ? 1 : Math.min(Math.max(wait, 0), WAIT_SECONDS_MAX);
}

/** Waits at least this many seconds, longer after each attempt, and not in step with others. */
async function pause(
  seconds: number,
  attempt: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  const wait = Math.min(seconds * attempt * Math.random(), WAIT_SECONDS_MAX);
  const milliseconds = (seconds + wait) * 1_000;
  signal?.throwIfAborted();
  await new Promise<void>((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal?.addEventListener("abort", stop, { once: true });
  });
}
