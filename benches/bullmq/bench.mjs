// The same work by BullMQ: add and process as many jobs, best of several rounds; pickup by a waiting
// worker. Prints one line of JSON.
import { Queue, Worker } from 'bullmq';

const connection = {
  host: '127.0.0.1',
  port: Number(process.env.REDIS_PORT),
  password: process.env.REDIS_PASSWORD,
  maxRetriesPerRequest: null,
};
const jobs = Number(process.env.JOBS);
const data = { payload: 'x'.repeat(200) };
const queue = new Queue('bench', { connection, defaultJobOptions: { removeOnComplete: true } });

async function round(concurrency) {
  await queue.obliterate({ force: true });
  let begin = performance.now();
  for (let at = 0; at < jobs; at += 500) {
    await queue.addBulk(Array.from({ length: Math.min(500, jobs - at) }, () => ({ name: 'x', data })));
  }
  const add = (performance.now() - begin) / 1000;
  let left = jobs;
  let finished;
  const all = new Promise((resolve) => { finished = resolve; });
  begin = performance.now();
  const worker = new Worker('bench', async () => {}, { connection, concurrency });
  worker.on('completed', () => { if (--left === 0) finished(); });
  await all;
  const process = (performance.now() - begin) / 1000;
  await worker.close();
  return { add: jobs / add, process: jobs / process, cycles: jobs / (add + process) };
}

async function pickup(rounds) {
  await queue.obliterate({ force: true });
  const took = [];
  let picked;
  const worker = new Worker('bench', async (job) => {
    took.push(performance.now() - job.data.at);
    picked();
  }, { connection, concurrency: 1 });
  await worker.waitUntilReady();
  await new Promise((resolve) => { setTimeout(resolve, 500); });
  for (let at = 0; at < rounds; at += 1) {
    const done = new Promise((resolve) => { picked = resolve; });
    await queue.add('x', { at: performance.now() });
    await done;
    await new Promise((resolve) => { setTimeout(resolve, 3); });
  }
  await worker.close();
  took.sort((a, b) => a - b);
  return took[Math.floor(took.length / 2)] * 1000;
}

const rounds = [];
for (const concurrency of [8, 50, 128, 50]) rounds.push(await round(concurrency));
rounds.sort((a, b) => b.cycles - a.cycles);
const figures = { ...rounds[0], pickup_us_p50: await pickup(300) };
await queue.close();
console.log(JSON.stringify(figures));
process.exit(0);
