// Drives several servers in turn and reports, for each, the processor time that the databases use
// for a page and the time until the answer. With --compare, it compares the pages instead.
import { readFileSync } from 'node:fs';
import http from 'node:http';
import { parseArgs } from 'node:util';

const { values, positionals: urls } = parseArgs({
  allowPositionals: true,
  options: {
    pid: { type: 'string', multiple: true, default: [] },
    readers: { type: 'string', default: '20000' },
    first: { type: 'string', default: '1' },
    pages: { type: 'string', default: '300' },
    rounds: { type: 'string', default: '5' },
    connections: { type: 'string', default: '1' },
    limit: { type: 'string', default: '20' },
    compare: { type: 'boolean', default: false },
  },
});
const [readers, first, pages, rounds, connections] =
  [values.readers, values.first, values.pages, values.rounds, values.connections].map(Number);
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
const page = (url, reader) => get(`${url}/user/feed/${reader}?limit=${values.limit}`);
const ids = (answer) => answer.body.toString().match(/"tweet_id":"?\d+/g)?.join().replaceAll('"', '');

async function measure(url, list) {
  const begun = cpu();
  const times = [];
  const queue = [...list];
  await Promise.all(Array.from({ length: connections }, async () => {
    for (let reader = queue.pop(); reader !== undefined; reader = queue.pop()) {
      const start = performance.now();
      const { status } = await page(url, reader);
      if (status !== 200) throw new Error(`${url}: status ${status}`);
      times.push(performance.now() - start);
    }
  }));
  return { cpu: (cpu() - begun) / list.length, p50: median(times) };
}

if (values.compare) {
  let different = 0;
  for (const reader of chosen(0)) {
    const answers = await Promise.all(urls.map((url) => page(url, reader)));
    if (new Set(answers.map(ids)).size > 1) {
      different += 1;
      console.log(`reader ${reader} differs`);
    }
  }
  console.log(`${pages} pages, ${different} differ`);
} else {
  const results = new Map(urls.map((url) => [url, []]));
  for (let round = 0; round < rounds; round++) {
    for (const url of urls) results.get(url).push(await measure(url, chosen(round)));
  }
  for (const [url, found] of results) {
    const [cpuMs, p50] = ['cpu', 'p50'].map((name) => median(found.map((one) => one[name])));
    console.log(`${url}: ${cpuMs.toFixed(2)} ms of the databases for a page, p50 ${p50.toFixed(2)} ms`);
  }
}
agent.destroy();
