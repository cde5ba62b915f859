// The pages that a reader must get, by the simplest SQL: all posts of all followees, without a
// limit, sorted here.
import { readFileSync } from 'node:fs';
import mysql from 'mysql2/promise';

export class Expected {
  #pools;
  #pages = new Map();

  // The file is that of the loop.
  constructor(configFile) {
    this.#pools = JSON.parse(readFileSync(configFile, 'utf8')).map((shard) =>
      mysql.createPool({ supportBigNumbers: true, bigNumberStrings: true, ...shard, connectionLimit: 2 }),
    );
  }

  // The newest posts for a reader, as texts of author and post id.
  async page(reader, limit) {
    const known = this.#pages.get(reader);
    if (known) return known;
    const own = this.#pools[this.#shardOf(reader)];
    const [follows] = await own.query(
      'SELECT followed_user_id FROM followers WHERE follower_user_id = ?', [reader],
    );
    const posts = [];
    for (const [shard, pool] of this.#pools.entries()) {
      const authors = follows.map((row) => row.followed_user_id);
      const owned = authors.filter((author) => this.#shardOf(author) === shard);
      if (owned.length === 0) continue;
      const [rows] = await pool.query(
        'SELECT timestamp, tweet_id, user_id FROM tweets WHERE user_id IN (?)', [owned],
      );
      for (const row of rows) {
        posts.push([row.timestamp, row.tweet_id, row.user_id].map(BigInt));
      }
    }
    posts.sort(newestFirst);
    const page = posts.slice(0, limit).map(([, post, author]) => `${author}/${post}`);
    this.#pages.set(reader, page);
    return page;
  }

  async close() {
    await Promise.all(this.#pools.map((pool) => pool.end()));
  }

  #shardOf(user) {
    return Number(BigInt(user) % BigInt(this.#pools.length));
  }
}

// By time, post and author. Ids are compared as integers, because they can exceed 2^53.
function newestFirst(a, b) {
  const index = a.findIndex((part, place) => part !== b[place]);
  if (index === -1) return 0;
  return a[index] < b[index] ? 1 : -1;
}
