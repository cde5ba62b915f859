// The usual handler for a home timeline over sharded MySQL, with the faults of its first version
// repaired: it queries only shards that own a followee, all at the same time, one indexed
// statement each, and opens its pools before it serves.
import { readFileSync } from 'node:fs';
import express from 'express';
import mysql from 'mysql2/promise';

const [configFile, address = '127.0.0.1:3000'] = process.argv.slice(2);
if (!configFile) {
  console.error('usage: node loop.mjs SHARDS.json [HOST:PORT]');
  process.exit(2);
}
const pools = JSON.parse(readFileSync(configFile, 'utf8')).map((shard) =>
  mysql.createPool({ connectionLimit: 16, supportBigNumbers: true, bigNumberStrings: true, ...shard }),
);
await Promise.all(pools.map((pool) => pool.query('SELECT 1')));

const shardOf = (user) => Number(BigInt(user) % BigInt(pools.length));

// Newest first. Times are numbers; ids are texts, because they can exceed 2^53.
function newestFirst(a, b) {
  if (a.timestamp !== b.timestamp) return Number(b.timestamp) - Number(a.timestamp);
  return BigInt(a.tweet_id) < BigInt(b.tweet_id) ? 1 : -1;
}

async function feed(user, limit) {
  const [follows] = await pools[shardOf(user)].execute(
    'SELECT followed_user_id FROM followers WHERE follower_user_id = ?',
    [user],
  );
  const owned = new Map();
  for (const { followed_user_id: author } of follows) {
    const shard = shardOf(author);
    if (!owned.has(shard)) owned.set(shard, []);
    owned.get(shard).push(author);
  }
  const parts = await Promise.all(
    [...owned].map(async ([shard, authors]) => {
      const [rows] = await pools[shard].query(
        'SELECT tweet_id, user_id, content, timestamp FROM tweets WHERE user_id IN (?)' +
          ' ORDER BY timestamp DESC, tweet_id DESC LIMIT ?',
        [authors, limit],
      );
      return rows;
    }),
  );
  return parts.flat().sort(newestFirst).slice(0, limit);
}

const app = express();
// The second path is that of `tributary bench`.
app.get(['/user/feed/:userId', '/v1/users/:userId/feed'], async (request, response) => {
  if (!/^\d{1,19}$/.test(request.params.userId)) return response.status(400).end();
  const limit = Math.min(Math.max(Number(request.query.limit) || 20, 1), 100);
  response.json({ feed: await feed(request.params.userId, limit) });
});
const [host, port] = address.split(':');
app.listen(Number(port), host, () => console.log(`serving on http://${address}`));
