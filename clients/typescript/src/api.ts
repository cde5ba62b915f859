// Generated from docs/openapi.json by generate.mjs. Do not edit.

/** The answer of `GET /v1/posts/counts`. */
export type CountedPosts = {
  complete: boolean;
  missing_shards: Array<string>;
  posts: Array<PostNumbers>;
};

/** A place in a list, opaque and URL-safe. It is sealed for its list and its reader. */
export type Cursor = string;

/** How a page was read. */
export type Explained = {
  followees: number | null;
  from: string;
  memory: ExplainedSearch | null;
  merge: ExplainedMerge;
  page_cache?: ExplainedPageCache;
  reader: string;
  reader_shard: string;
  shards: Array<ExplainedShard>;
  steps: Array<ExplainedStep>;
  token_reached: boolean | null;
  totals: ExplainedTotals;
  waves: Array<ExplainedWave>;
};

/** The log that memory follows for a shard. */
export type ExplainedLog = {
  log: string | null;
  memory: string;
  position: string | null;
};

/** The posts of the page. */
export type ExplainedMerge = {
  from_databases: number;
  from_memory: number;
  posts: number;
};

/** Whether a request without `explain` gets the page from the page cache. */
export type ExplainedPageCache = {
  hit: boolean;
  us: number;
};

/** The queries of a wave to one shard. */
export type ExplainedQueries = {
  error?: string;
  reason?: string;
  rows: number;
  rows_examined: number | null;
  shard: string;
  statements: number;
  us: number;
  wait_us: number;
};

/** The search in memory. */
export type ExplainedSearch = {
  authors_read: number;
  posts: number;
  search: string;
  why: string;
};

/** The part of a shard. */
export type ExplainedShard = {
  as_of: string | null;
  followees: number;
  in_memory: number;
  log: ExplainedLog | null;
  posts: number;
  posts_from_memory: number;
  queried: boolean;
  rows: number;
  rows_examined: number | null;
  server: string | null;
  shard: string;
  state: string;
  statements: number;
  too_short: number;
  us: number;
  wait_us: number;
  why: string;
};

/** A step with its time. */
export type ExplainedStep = {
  step: string;
  us: number;
  /** The number of a wave, from 1. */
  wave?: number;
};

/** The sums of all waves. */
export type ExplainedTotals = {
  rows: number;
  rows_examined: number | null;
  statements: number;
  us: number;
  waves: number;
};

/** Queries to several shards at the same time. */
export type ExplainedWave = {
  asked: number;
  reads: string;
  shards: Array<ExplainedQueries>;
  us: number;
  why: string;
};

/** The answer of `GET /user/feed/{user_id}`, with the field names of the Express handler that this route replaces. */
export type ExpressFeed = {
  complete: boolean;
  feed: Array<Tweet>;
  missing_shards: Array<string>;
  next_cursor: Cursor | null;
};

export type FilledAhead = {
  authors: number;
  done: boolean;
  of: number;
};

/** The body of `POST /v1/users/{user_id}/following`: one of two fields with user ids. */
export type FollowChange = {
  follow: Array<string>;
} | {
  unfollow: Array<string>;
};

export type Followee = {
  user_id: Id;
};

/** The answer of `GET /v1/users/{user_id}/following`. */
export type Following = {
  complete: boolean;
  following: Array<Followee>;
  missing_shards: Array<string>;
  next: Cursor | null;
};

/** The answer of `POST /v1/users/{user_id}/following`: one of two fields. */
export type FollowsChanged = {
  /** The number of follows that did not exist before. */
  added: number;
} | {
  /** The number of follows that existed before. */
  removed: number;
};

/** The answer of `GET /v1/posts`. */
export type FoundPosts = {
  complete: boolean;
  missing_shards: Array<string>;
  /** In the order of the request. Posts that do not exist are absent. */
  posts: Array<Post>;
  /** The addresses from the first one on whose text had no room: request them again. */
  rest: Array<string>;
};

/** The answer of `GET /v1/users?handle=...`. */
export type FoundUsers = {
  complete: boolean;
  missing_shards: Array<string>;
  users: Array<NamedUser>;
};

/** A user or a post: a decimal number from 0 to 2^63-1, as a string. */
export type Id = string;

/** The answer of `GET /keys`. */
export type KeysState = {
  /** Whether requests need credentials. */
  configured: boolean;
  /** Why the files cannot be read again at the moment. */
  problem: string | null;
  revoked: RevokedState;
  service_keys: Array<ServiceKeyState>;
  token_keys: Array<string>;
};

/** The state of memory for one log. */
export type LogState = {
  filled_ahead: FilledAhead;
  followed: boolean;
  /** Bytes of the log that memory has not applied. */
  lag_bytes?: number | null;
  /** Milliseconds since memory last had every change of the log. */
  lag_ms?: number | null;
  log: string;
  newest_times: boolean;
  news: NewsState;
  /** The position that memory has reached: a number, or file and offset of a server's log. */
  position?: string | null;
  /** Why memory is not up to date with the log; only with `verbose`, as all that follow. */
  reason?: string | null;
};

/** The answer about a read marker. */
export type Marked = {
  marker: Marker | null;
};

/** The place of a post, down to which a user has read. */
export type Marker = {
  /** The time of the post, in UTC with milliseconds. */
  created_at: string;
  /** The post, which may be deleted; absent if its author was erased. */
  post?: PostReference;
  /** When the marker was moved here, in UTC with milliseconds. */
  updated_at: string;
};

export type NamedUser = {
  handle: string;
  /** The display name. Absent if there is none. */
  name?: string;
  user_id: Id;
};

/** The body of `POST /v1/users/{user_id}/posts`. */
export type NewPost = {
  /** At most `write.content_bytes_max` bytes in UTF-8. Only a repost may omit it. */
  content?: string;
  reply_to?: PostReference;
  repost_of?: PostReference;
};

/** The body of `PATCH /v1/users/{user_id}/posts/{post_id}`. */
export type NewText = {
  /** At most `write.content_bytes_max` bytes in UTF-8. */
  content: string;
};

/** The changes in a home timeline since a token. */
export type News = {
  complete: boolean;
  events: Array<NewsEvent>;
  /** Whether changes since the token are not known any more: read the page again. */
  gap: boolean;
  missing_shards: Array<string>;
  /** Whether there are more events: ask again at once. */
  more: boolean;
  stale_shards: Array<StaleShard>;
  token: Token | null;
};

/** The answer about news: the events, or only their number. */
export type NewsAnswer = News | NewsCount;

/** The number of posts that became visible since a token, with `count=1`. */
export type NewsCount = {
  complete: boolean;
  gap: boolean;
  missing_shards: Array<string>;
  posts: number;
  stale_shards: Array<StaleShard>;
};

export type NewsEvent = {
  post: Post;
  type: "post";
} | {
  post: Post;
  type: "update";
} | {
  author_id: Id;
  post_id: Id;
  type: "delete";
} | {
  token: Token;
  type: "follow";
  user_id: Id;
} | {
  token: Token;
  type: "unfollow";
  user_id: Id;
} | {
  token: Token;
  type: "mute";
  user_id: Id;
} | {
  token: Token;
  type: "unmute";
  user_id: Id;
} | {
  token: Token;
  type: "block";
  user_id: Id;
} | {
  token: Token;
  type: "unblock";
  user_id: Id;
};

/** The changes that requests for news are answered from. */
export type NewsState = {
  bytes: number;
  bytes_max: number;
  /** Their number; only with `verbose`, as all that follow. */
  changes?: number | null;
  /** A request since an earlier position has a gap. */
  from?: string | null;
  /** The age of this position. */
  seconds?: number | null;
};

/** A number of users or posts. */
export type Number = {
  /** The number is this one or a greater one. */
  at_least: boolean;
  count: number;
};

/** A post. */
export type Post = {
  /** Present if the configuration names a table of users and the author is in it. */
  author_handle?: string;
  author_id: Id;
  /** Present if the table of users has a display name of the author. */
  author_name?: string;
  content: string;
  /** UTC with milliseconds. */
  created_at: string;
  /** Present if the text was edited: the time of the last edit, in UTC with milliseconds. */
  edited_at?: string;
  post_id: Id;
  /** Present if the post is a reply. */
  reply_to?: PostReference;
  /** Present if the post shows another one again. */
  repost_of?: PostReference;
};

export type PostNumbers = {
  author_id: Id;
  post_id: Id;
  replies: Number;
  reposts: Number;
};

/** A post that another one refers to. It may not exist. */
export type PostReference = {
  author_id: Id;
  post_id: Id;
};

/** An error (RFC 9457). */
export type Problem = {
  code: "invalid_user_id" | "invalid_limit" | "invalid_cursor" | "invalid_freshness" | "invalid_query" | "invalid_post_id" | "invalid_idempotency_key" | "invalid_body" | "broken_body" | "unauthenticated" | "sign_in_refused" | "cross_site" | "missing_scope" | "local_only" | "read_only" | "not_found" | "method_not_allowed" | "body_too_slow" | "idempotency_key_reused" | "body_too_large" | "uri_too_long" | "unsupported_media_type" | "unknown_host" | "invalid_content" | "too_many_follows" | "refused" | "too_many_followees" | "future_post" | "too_many_requests" | "too_many_in_flight" | "too_many_headers" | "internal" | "no_streams" | "not_stored" | "incomplete" | "in_doubt" | "overloaded" | "shard_unavailable" | "too_many_streams" | "storage_full";
  detail: string;
  /** With `explain=1`, if a timeline was read. */
  explain?: Explained;
  status: number;
  title: string;
  trace_id: string;
  /** The address of the description of this problem. */
  type: string;
  /** As in draft-ietf-httpapi-ratelimit-headers. */
  "violated-policies"?: Array<string>;
};

/** The answer of `GET /readyz`. */
export type Ready = {
  /** Background tasks that have panicked; empty if the request may not see them. */
  failing?: Array<TaskState>;
  /** One entry for each log; empty if memory is off, or if the request may not see it. */
  memory?: Array<LogState>;
  /** Only if asked for; empty for a folder of embedded shards. */
  servers?: Array<ServerState> | null;
  /** Absent if the request may not see it. */
  shards?: Array<ShardState>;
  status: string;
  /** All background tasks, only if asked for. */
  tasks?: Array<TaskState> | null;
};

export type Relationship = {
  blocked_by: boolean;
  blocking: boolean;
  followed_by: boolean;
  following: boolean;
  muting: boolean;
  user_id: Id;
};

/** The answer of `GET /v1/users/{user_id}/relationships`. */
export type Relationships = {
  complete: boolean;
  missing_shards: Array<string>;
  relationships: Array<Relationship>;
};

/** The answer of `POST /reload`. */
export type Reloaded = {
  /** Settings, files and servers with a new content that is in effect. */
  changed: Array<string>;
  /** Settings with a new value that takes effect after a restart. */
  needs_restart: Array<string>;
  /** Why nothing has changed. */
  problem: string | null;
};

export type RevokedState = {
  kids: Array<string>;
  users: Array<RevokedUser>;
};

/** Tokens of the user that were issued before this time are refused. */
export type RevokedUser = {
  issued_from: string;
  user_id: Id;
};

export type SecretState = {
  created: string;
  expires: string | null;
  id: number;
};

export type ServerState = {
  /** The connections that requests may use. */
  connections: number;
  in_service: boolean;
  name: string;
  /** The requests that were rejected since the start. */
  rejected: number;
  /** The requests that wait for one. */
  waiting: number;
};

export type ServiceKeyState = {
  created: string;
  expires: string | null;
  id: string;
  name: string;
  scopes: Array<string>;
  secrets: Array<SecretState>;
};

export type ShardDetails = {
  foreign_writes: number;
  name: string;
  /** Why the shard is missing or read-only. */
  reason: string | null;
  server: string | null;
  status: string;
};

export type ShardState = {
  name: string;
  status: string;
};

/** The answer of `GET /shards`. */
export type ShardsState = {
  /** One entry for each log; empty if memory is off. */
  memory: Array<LogState>;
  /** Empty for a folder of embedded shards. */
  servers: Array<ServerState>;
  shards: Array<ShardDetails>;
};

/** A shard that cannot be queried: its posts come from memory, in their state of `as_of`. */
export type StaleShard = {
  as_of: string;
  shard: string;
};

/** A background task. */
export type TaskState = {
  of: string;
  restarts: number;
  running: boolean;
  task: string;
};

/** A page of a timeline. */
export type TimelinePage = {
  /** Whether all shards have answered. */
  complete: boolean;
  /** Only of a home timeline with `explain=1`. */
  explain?: Explained;
  missing_shards: Array<string>;
  next: Cursor | null;
  /** Newest first. */
  posts: Array<Post>;
  /** Leads to the posts nearest above the first one. */
  prev: Cursor;
  stale_shards: Array<StaleShard>;
};

/** A timestamp in the form of the Express handler: a stored number unchanged, a date as JavaScript formats it. */
export type Timestamp = number | string;

/** A position in the log of each server, opaque and URL-safe. */
export type Token = string;

export type Tweet = {
  content: string;
  timestamp: Timestamp;
  tweet_id: Id;
  user_id: Id;
};

/** The answer of `GET /v1/users/{user_id}/counts`. */
export type UserNumbers = {
  complete: boolean;
  followers: Number;
  following: Number;
  missing_shards: Array<string>;
};

/** A page of followers, mutes or blocks. */
export type UserPage = {
  complete: boolean;
  missing_shards: Array<string>;
  next: Cursor | null;
  users: Array<Followee>;
};

/** The parameters, the body and the answer of each operation. */
export interface Operations {
  /** This document and all problems as a page */
  docs: {
    path: Record<never, never>;
    query: Record<never, never>;
    body: undefined;
    answer: string;
  };
  /** Whether the process answers */
  healthz: {
    path: Record<never, never>;
    query: Record<never, never>;
    body: undefined;
    answer: string;
  };
  /** The credentials in effect, without their secrets */
  keys: {
    path: Record<never, never>;
    query: Record<never, never>;
    body: undefined;
    answer: KeysState;
  };
  /** Whether the process answers */
  livez: {
    path: Record<never, never>;
    query: Record<never, never>;
    body: undefined;
    answer: string;
  };
  /** Metrics for Prometheus */
  metrics: {
    path: Record<never, never>;
    query: Record<never, never>;
    body: undefined;
    answer: string;
  };
  /** This document */
  openapi: {
    path: Record<never, never>;
    query: Record<never, never>;
    body: undefined;
    answer: Record<string, unknown>;
  };
  /** Whether the shards answer */
  readyz: {
    path: Record<never, never>;
    query: {
      /** `degraded` is then 503, too */
      strict?: string;
      /** Adds servers, tasks, and the progress of memory in each log */
      verbose?: string;
    };
    body: undefined;
    answer: Ready;
  };
  /** Read the configuration, and the files that it names */
  reload: {
    path: Record<never, never>;
    query: Record<never, never>;
    body: undefined;
    answer: Reloaded;
  };
  /** Every server and shard with its state */
  shards: {
    path: Record<never, never>;
    query: Record<never, never>;
    body: undefined;
    answer: ShardsState;
  };
  /** The home timeline in the format of the Express handler */
  express_timeline: {
    path: {
      /** The user that the request is about. */
      user_id: Id;
    };
    query: {
      /** Entries on the page; 20 if absent. */
      limit?: number;
      /** `next` or `prev` of an earlier page; the first page if absent. */
      cursor?: Cursor;
      /** Answer 503 `incomplete` instead of an incomplete, stale or lagging page. */
      require?: "complete";
      /** Switches something on. */
      include_self?: "1";
      /** With `collapse`, a post that the pages so far have shown, as itself or as a repost, is not shown again. Excludes `around` and `explain`. */
      reposts?: "collapse";
    };
    body: undefined;
    answer: ExpressFeed;
  };
  /** Read several posts */
  read_posts: {
    path: Record<never, never>;
    query: {
      /** 1 to 100 addresses of posts, `author:post`, with commas in between. */
      posts: string;
      /** Answer 503 `incomplete` instead of an incomplete answer. */
      require?: "complete";
    };
    body: undefined;
    answer: FoundPosts;
  };
  /** The numbers of replies and reposts of several posts */
  count_posts: {
    path: Record<never, never>;
    query: {
      /** 1 to 100 addresses of posts, `author:post`, with commas in between. */
      posts: string;
      /** Answer 503 `incomplete` instead of an incomplete answer. */
      require?: "complete";
    };
    body: undefined;
    answer: CountedPosts;
  };
  /** The first 20 users whose handles begin with a text */
  find_users: {
    path: Record<never, never>;
    query: {
      /** The beginning of a handle, 1 to 64 characters, none of them a control character. */
      handle: string;
      /** Answer 503 `incomplete` instead of an incomplete answer. */
      require?: "complete";
    };
    body: undefined;
    answer: FoundUsers;
  };
  /** The users that a user blocks, by rising id */
  blocks: {
    path: {
      /** The user that the request is about. */
      user_id: Id;
    };
    query: {
      /** Entries on the page; 20 if absent. */
      limit?: number;
      /** `next` or `prev` of an earlier page; the first page if absent. */
      cursor?: Cursor;
      /** Answer 503 `incomplete` instead of an incomplete, stale or lagging page. */
      require?: "complete";
    };
    body: undefined;
    answer: UserPage;
  };
  /** Hide the posts of two users from each other */
  block: {
    path: {
      /** The user that blocks. */
      user_id: Id;
      /** The user that is blocked. */
      blocked_id: Id;
    };
    query: Record<never, never>;
    body: undefined;
    answer: undefined;
  };
  /** End a block */
  unblock: {
    path: {
      /** The user that blocks. */
      user_id: Id;
      /** The user that is blocked. */
      blocked_id: Id;
    };
    query: Record<never, never>;
    body: undefined;
    answer: undefined;
  };
  /** The numbers of followees and followers */
  counts: {
    path: {
      /** The user that the request is about. */
      user_id: Id;
    };
    query: {
      /** Answer 503 `incomplete` instead of an incomplete answer. */
      require?: "complete";
    };
    body: undefined;
    answer: UserNumbers;
  };
  /** The posts of all users that a user follows, newest first */
  home_timeline: {
    path: {
      /** The user that the request is about. */
      user_id: Id;
    };
    query: {
      /** Entries on the page; 20 if absent. */
      limit?: number;
      /** `next` or `prev` of an earlier page; the first page if absent. */
      cursor?: Cursor;
      /** Answer 503 `incomplete` instead of an incomplete, stale or lagging page. */
      require?: "complete";
      /** The page around this post, `author:post`. Excludes `cursor` and `explain`. */
      around?: string;
      /** Switches something on. */
      explain?: "1";
      /** Read the page from the databases alone; needs `explain`. */
      memory?: "off";
      /** Switches something on. */
      include_self?: "1";
      /** With `collapse`, a post that the pages so far have shown, as itself or as a repost, is not shown again. Excludes `around` and `explain`. */
      reposts?: "collapse";
    };
    body: undefined;
    answer: TimelinePage;
  };
  /** What becomes visible in a home timeline, as server-sent events */
  live: {
    path: {
      /** The user that the request is about. */
      user_id: Id;
    };
    query: {
      /** The token of an earlier answer, or of a page. Without it, the stream begins now. */
      since?: Token;
    };
    body: undefined;
    answer: string;
  };
  /** The place down to which a user has read */
  read_marker: {
    path: {
      /** The user that the request is about. */
      user_id: Id;
    };
    query: Record<never, never>;
    body: undefined;
    answer: Marked;
  };
  /** Move the read marker to a newer post */
  mark_read: {
    path: {
      /** The user that the request is about. */
      user_id: Id;
    };
    query: Record<never, never>;
    body: PostReference;
    answer: Marked;
  };
  /** What became visible in a home timeline since a token */
  news: {
    path: {
      /** The user that the request is about. */
      user_id: Id;
    };
    query: {
      /** The token of an earlier answer, or of a page. Without it, the answer is the token to begin with. */
      since?: Token;
      /** Events in the answer; 20 if absent. */
      limit?: number;
      /** Switches something on. */
      count?: "1";
    };
    body: undefined;
    answer: NewsAnswer;
  };
  /** The followers of a user, by rising id */
  followers: {
    path: {
      /** The user that the request is about. */
      user_id: Id;
    };
    query: {
      /** Entries on the page; 20 if absent. */
      limit?: number;
      /** `next` or `prev` of an earlier page; the first page if absent. */
      cursor?: Cursor;
      /** Answer 503 `incomplete` instead of an incomplete, stale or lagging page. */
      require?: "complete";
    };
    body: undefined;
    answer: UserPage;
  };
  /** The users that a user follows, by rising id */
  following: {
    path: {
      /** The user that the request is about. */
      user_id: Id;
    };
    query: {
      /** Entries on the page; 20 if absent. */
      limit?: number;
      /** `next` or `prev` of an earlier page; the first page if absent. */
      cursor?: Cursor;
      /** Answer 503 `incomplete` instead of an incomplete, stale or lagging page. */
      require?: "complete";
    };
    body: undefined;
    answer: Following;
  };
  /** Follow or unfollow several users in one transaction */
  follow_all: {
    path: {
      /** The user that the request is about. */
      user_id: Id;
    };
    query: Record<never, never>;
    body: FollowChange;
    answer: FollowsChanged;
  };
  /** Follow a user */
  follow: {
    path: {
      /** The user that follows. */
      user_id: Id;
      /** The user that is followed. */
      followee_id: Id;
    };
    query: Record<never, never>;
    body: undefined;
    answer: undefined;
  };
  /** Stop to follow a user */
  unfollow: {
    path: {
      /** The user that follows. */
      user_id: Id;
      /** The user that is followed. */
      followee_id: Id;
    };
    query: Record<never, never>;
    body: undefined;
    answer: undefined;
  };
  /** The users that a user mutes, by rising id */
  mutes: {
    path: {
      /** The user that the request is about. */
      user_id: Id;
    };
    query: {
      /** Entries on the page; 20 if absent. */
      limit?: number;
      /** `next` or `prev` of an earlier page; the first page if absent. */
      cursor?: Cursor;
      /** Answer 503 `incomplete` instead of an incomplete, stale or lagging page. */
      require?: "complete";
    };
    body: undefined;
    answer: UserPage;
  };
  /** Hide the posts of a user */
  mute: {
    path: {
      /** The user that mutes. */
      user_id: Id;
      /** The user that is muted. */
      muted_id: Id;
    };
    query: Record<never, never>;
    body: undefined;
    answer: undefined;
  };
  /** End a mute */
  unmute: {
    path: {
      /** The user that mutes. */
      user_id: Id;
      /** The user that is muted. */
      muted_id: Id;
    };
    query: Record<never, never>;
    body: undefined;
    answer: undefined;
  };
  /** The posts of one author, newest first */
  author_timeline: {
    path: {
      /** The user that the request is about. */
      user_id: Id;
    };
    query: {
      /** Entries on the page; 20 if absent. */
      limit?: number;
      /** `next` or `prev` of an earlier page; the first page if absent. */
      cursor?: Cursor;
      /** Answer 503 `incomplete` instead of an incomplete, stale or lagging page. */
      require?: "complete";
    };
    body: undefined;
    answer: TimelinePage;
  };
  /** Store a post */
  publish: {
    path: {
      /** The user that the request is about. */
      user_id: Id;
    };
    query: Record<never, never>;
    body: NewPost;
    answer: Post;
  };
  /** Read one post */
  read_post: {
    path: {
      /** The author of the post. */
      user_id: Id;
      /** The post; its id is unique for its author only. */
      post_id: Id;
    };
    query: Record<never, never>;
    body: undefined;
    answer: Post;
  };
  /** Replace the text of a post */
  edit_post: {
    path: {
      /** The author of the post. */
      user_id: Id;
      /** The post; its id is unique for its author only. */
      post_id: Id;
    };
    query: Record<never, never>;
    body: NewText;
    answer: Post;
  };
  /** Delete a post */
  delete_post: {
    path: {
      /** The author of the post. */
      user_id: Id;
      /** The post; its id is unique for its author only. */
      post_id: Id;
    };
    query: Record<never, never>;
    body: undefined;
    answer: undefined;
  };
  /** How a user and other users are related */
  relationships: {
    path: {
      /** The user that the request is about. */
      user_id: Id;
    };
    query: {
      /** 1 to 100 user ids with commas in between. */
      users: string;
      /** Answer 503 `incomplete` instead of an incomplete answer. */
      require?: "complete";
    };
    body: undefined;
    answer: Relationships;
  };
}

/** The method and the path of each operation. */
export const routes: Readonly<Record<keyof Operations, readonly [string, string]>> = {
  docs: ["GET", "/docs"],
  healthz: ["GET", "/healthz"],
  keys: ["GET", "/keys"],
  livez: ["GET", "/livez"],
  metrics: ["GET", "/metrics"],
  openapi: ["GET", "/openapi.json"],
  readyz: ["GET", "/readyz"],
  reload: ["POST", "/reload"],
  shards: ["GET", "/shards"],
  express_timeline: ["GET", "/user/feed/{user_id}"],
  read_posts: ["GET", "/v1/posts"],
  count_posts: ["GET", "/v1/posts/counts"],
  find_users: ["GET", "/v1/users"],
  blocks: ["GET", "/v1/users/{user_id}/blocks"],
  block: ["PUT", "/v1/users/{user_id}/blocks/{blocked_id}"],
  unblock: ["DELETE", "/v1/users/{user_id}/blocks/{blocked_id}"],
  counts: ["GET", "/v1/users/{user_id}/counts"],
  home_timeline: ["GET", "/v1/users/{user_id}/feed"],
  live: ["GET", "/v1/users/{user_id}/feed/live"],
  read_marker: ["GET", "/v1/users/{user_id}/feed/marker"],
  mark_read: ["PUT", "/v1/users/{user_id}/feed/marker"],
  news: ["GET", "/v1/users/{user_id}/feed/new"],
  followers: ["GET", "/v1/users/{user_id}/followers"],
  following: ["GET", "/v1/users/{user_id}/following"],
  follow_all: ["POST", "/v1/users/{user_id}/following"],
  follow: ["PUT", "/v1/users/{user_id}/following/{followee_id}"],
  unfollow: ["DELETE", "/v1/users/{user_id}/following/{followee_id}"],
  mutes: ["GET", "/v1/users/{user_id}/mutes"],
  mute: ["PUT", "/v1/users/{user_id}/mutes/{muted_id}"],
  unmute: ["DELETE", "/v1/users/{user_id}/mutes/{muted_id}"],
  author_timeline: ["GET", "/v1/users/{user_id}/posts"],
  publish: ["POST", "/v1/users/{user_id}/posts"],
  read_post: ["GET", "/v1/users/{user_id}/posts/{post_id}"],
  edit_post: ["PATCH", "/v1/users/{user_id}/posts/{post_id}"],
  delete_post: ["DELETE", "/v1/users/{user_id}/posts/{post_id}"],
  relationships: ["GET", "/v1/users/{user_id}/relationships"],
};
