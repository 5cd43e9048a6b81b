// SPDX-License-Identifier: Apache-2.0
// Answers `/job/N/COUNT` as requests_app.py does: `node requests_node.js SERVER PORT`, SERVER `http`, `express`, `fastify` or
// `cluster`; the packages come from the folder that the variable PACKAGES names.
// Files are named after the request's number and what has touched them: `now`: the handler before it first waits. How a request
// is answered say the thousands of its number: PLAIN at once, WAITS after all that one can wait for, ADVERSE in ways that may
// be taken for another one's work.
'use strict';
const cluster = require('node:cluster');
const fs = require('node:fs');
const http = require('node:http');
const { EventEmitter } = require('node:events');
const { Worker, isMainThread, parentPort } = require('node:worker_threads');
const { setTimeout: sleep, setImmediate: turn } = require('node:timers/promises');

const [kind, port] = process.argv.slice(2);
const [PLAIN, WAITS] = [0, 1];
const FAILS = 7;
const WARM = 900000;

function touch(number, what) {
  fs.statSync(`/kernelspan-request/${number}/${what}`, { throwIfNoEntry: false });
}

if (!isMainThread) {
  parentPort.on('message', (number) => {
    touch(number, 'worker0');
    parentPort.postMessage(number);
  });
}

const started = {};
const worker = () => (started.worker ??= new Worker(__filename));
const later = new EventEmitter();
const waiting = []; // resolve functions of other requests

function answer(number, response) {
  response.statusCode = number % 10 === FAILS ? 500 : 200;
  response.end(`${number} done\n`);
}

function ask(number) {
  return new Promise((resolve) => {
    http.get({ host: '127.0.0.1', port, path: `/job/${number}/2`, agent: false }, (response) => {
      touch(number, 'told0');
      response.resume().on('end', resolve);
    });
  });
}

// Every way to wait; what follows is nobody's that can be told.
async function waits(number, count, response) {
  for (let step = 0; step < count; step++) touch(number, `now${step}`);
  await null;
  touch(number, 'later0');
  await sleep(number % 4);
  touch(number, 'later1');
  await turn();
  touch(number, 'later2');
  await fs.promises.stat('/').then(() => touch(number, 'later3'));
  await Promise.all([1, 2].map(async (each) => {
    await sleep(each);
    touch(number, `later${3 + each}`);
  }));
  await new Promise((resolve) => process.nextTick(resolve));
  touch(number, 'later6');
  answer(number, response);
  touch(number, 'after0');
  await sleep(2);
  touch(number, 'after1');
}

// What one request's callback sets off in another one's name, and the other way round.
const ADVERSE = [
  (number, request, response) => { // what it has begun outlives it
    setTimeout(() => touch(number, 'timer0'), 3);
    setImmediate(() => touch(number, 'immediate0'));
    process.nextTick(() => touch(number, 'tick0'));
    queueMicrotask(() => touch(number, 'micro0'));
    answer(number, response);
  },
  (number, request, response) => { // another request wakes it
    waiting.push(() => touch(number, 'woken0'));
    new Promise((resolve) => waiting.push(resolve)).then(() => touch(number, 'woken1'));
    later.once('turn', () => touch(number, 'woken2'));
    setTimeout(() => answer(number, response), 4);
  },
  (number, request, response) => { // it wakes others
    for (const wake of waiting.splice(0)) process.nextTick(wake);
    setImmediate(() => later.emit('turn'));
    answer(number, response);
  },
  (number, request, response) => { // it comes in pieces
    request.on('data', () => touch(number, 'data0'));
    request.on('end', () => {
      touch(number, 'end0');
      answer(number, response);
    });
  },
  async (number, request, response) => { // it asks this server itself
    await ask(number + 500);
    touch(number, 'asked0');
    answer(number, response);
  },
  (number, request, response) => { // a worker works for it
    worker().once('message', () => touch(number, 'posted0'));
    worker().postMessage(number);
    setTimeout(() => answer(number, response), 2);
  },
  (number, request) => { // it is never answered
    request.socket.on('close', () => touch(number, 'closed0'));
    setTimeout(() => touch(number, 'never0'), 2);
    setTimeout(() => request.socket.destroy(), 5);
  },
  (number, request, response) => { // it answers in parts, when there is room
    let left = 20;
    const more = () => {
      touch(number, `more${left}`);
      if (left-- === 0) response.end();
      else if (response.write(`${number} ${'x'.repeat(8000)}\n`)) setImmediate(more);
      else response.once('drain', more);
    };
    setImmediate(more);
  },
];

function handle(request, response) {
  const [number, count] = request.url.split('?')[0].split('/').slice(2).map(Number);
  const way = Math.floor(number / 1000) % 10;
  if (way === WAITS && number < WARM) return waits(number, count, response);
  for (let step = 0; step < count; step++) touch(number, `now${step}`);
  if (way === PLAIN || number >= WARM || number % 1000 >= 500) return answer(number, response);
  return ADVERSE[number % ADVERSE.length](number, request, response);
}

const library = (name) => require(require.resolve(name, { paths: [process.env.PACKAGES] }));
const SERVERS = {
  http: () => http.createServer(handle).listen(port, '127.0.0.1'),
  cluster: () => (cluster.isPrimary ? [cluster.fork(), cluster.fork()] : SERVERS.http()),
  express: () => {
    const app = library('express')();
    app.all('/job/:number/:count', (request, response) => handle(request, response));
    app.listen(port, '127.0.0.1');
  },
  fastify: () => {
    const app = library('fastify')();
    app.addContentTypeParser('*', (request, payload, done) => done(null));
    app.all('/job/:number/:count', (request, reply) => {
      reply.hijack();
      handle(request.raw, reply.raw);
    });
    app.listen({ port: Number(port), host: '127.0.0.1' });
  },
};
if (isMainThread) SERVERS[kind]();
process.on('SIGTERM', () => process.exit(0));
