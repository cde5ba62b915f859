// Drives several servers in turn and reports, for each, the processor time that the databases use
// for a page and the time until the answer. With --shards, it also compares each page, post by
// post, with the page that direct SQL gives.
import { readFileSync } from 'node:fs';
import http from 'node:http';
import { parseArgs } from 'node:util';
import { Expected } from './expected.mjs';

const { values, positionals: urls } = parseArgs({
  allowPositionals: true,
  options: {
    pid: { type: 'string', multiple: true, default: [] },
    shards: { type: 'string' },
    readers: { type: 'string', default: '20000' },
    first: { type: 'string', default: '1' },
    pages: { type: 'string', default: '300' },
    rounds: { type: 'string', default: '5' },
    connections: { type: 'string', default: '1' },
    limit: { type: 'string', default: '20' },
  },
});
const [readers, first, pages, rounds, connections, limit] =
  [values.readers, values.first, values.pages, values.rounds, values.connections, values.limit]
    .map(Number);
const agent = new http.Agent({ keepAlive: true, maxSockets: connections });

function get(url) {
  return new Promise((resolve, reject) => {
    http.get(url, { agent }, (response) => {
      const parts = [];
      response.on('data', (part) => parts.push(part));
      response.on('end', () => resolve({ status: response.statusCode, body: Buffer.concat(parts) }));
    }).on('error', reject);
  });
}

// User and system time of the databases, in milliseconds. A tick is 10 ms.
function cpu() {
  return values.pid.reduce((sum, pid) => {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ');
    return sum + (Number(fields[11]) + Number(fields[12])) * 10;
  }, 0);
}

// The readers of a round: the same for all servers.
function chosen(round) {
  let state = 12345 + round;
  return Array.from({ length: pages }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return first + Math.floor((state / 2 ** 32) * readers);
  });
}

const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];

// Requests the pages of a round from one server, and returns the answers for later checks.
async function measure(url, list) {
  const begun = cpu();
  const times = [];
  const answers = [];
  const queue = [...list];
  await Promise.all(Array.from({ length: connections }, async () => {
    for (let reader = queue.pop(); reader !== undefined; reader = queue.pop()) {
      const start = performance.now();
      const { status, body } = await get(`${url}/user/feed/${reader}?limit=${limit}`);
      if (status !== 200) throw new Error(`${url}: status ${status}`);
      times.push(performance.now() - start);
      answers.push({ reader, body });
    }
  }));
  return { cpu: (cpu() - begun) / list.length, p50: median(times), answers };
}

// How many answers are incomplete, as they state themselves, and how many of the others differ from
// the expected pages.
async function compare(url, answers, expected) {
  const counts = { incomplete: 0, different: 0 };
  for (const { reader, body } of answers) {
    const { feed, complete } = JSON.parse(body);
    const found = feed.map((post) => `${post.user_id}/${post.tweet_id}`);
    const page = await expected.page(reader, limit);
    const place = Array.from({ length: limit }).findIndex((_, index) => found[index] !== page[index]);
    if (complete === false) {
      counts.incomplete += 1;
    } else if (place !== -1 || found.length !== page.length) {
      counts.different += 1;
      console.log(`${url}: reader ${reader} has ${found[place]} at ${place}, not ${page[place]}`);
    }
  }
  return counts;
}

const expected = values.shards && new Expected(values.shards);
const results = new Map(urls.map((url) => [url, { rounds: [], pages: 0, incomplete: 0, different: 0 }]));
for (let round = 0; round < rounds; round++) {
  const list = chosen(round);
  for (const [url, result] of results) {
    const { answers, ...measured } = await measure(url, list);
    result.rounds.push(measured);
    result.pages += answers.length;
    if (!expected) continue;
    const { incomplete, different } = await compare(url, answers, expected);
    result.incomplete += incomplete;
    result.different += different;
  }
}
for (const [url, result] of results) {
  const [cpuMs, p50] = ['cpu', 'p50'].map((name) => median(result.rounds.map((one) => one[name])));
  const { pages, incomplete, different } = result;
  const checked = expected ? `; ${pages} pages: ${incomplete} incomplete, ${different} differ` : '';
  console.log(
    `${url}: ${cpuMs.toFixed(2)} ms of the databases for a page, p50 ${p50.toFixed(2)} ms${checked}`,
  );
}
const isWrong = [...results.values()].some((result) => result.different > 0);
await expected?.close();
agent.destroy();
process.exitCode = isWrong ? 1 : 0;
