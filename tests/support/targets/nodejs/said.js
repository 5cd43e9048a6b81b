// SPDX-License-Identifier: Apache-2.0
// The beginning of every Node.js target, as said.py is of Python's: an operation is fs.readSync(fd, buffer, 0, M(), null) on one
// line. M() notes the stack of that line, as V8's own traces have it, and gives a number; the read asks for so many bytes.
'use strict';
const fs = require('fs');
const crypto = require('crypto');
const { fileURLToPath } = require('url');
const { isMainThread, workerData } = require('worker_threads');

const out = isMainThread ? process.argv[2] : workerData.out;
const token = crypto.randomBytes(6).toString('hex');
const fd = fs.openSync(`${out}.${token}.reads`, 'w+');
const buffer = Buffer.alloc(1 << 20);
const said = [];
const stacks = new Map();
const app = {};
let number = 0;

// Where node:fs calls the kernel for readSync: its own traces do not show it, its source does.
function lineOfRead() {
  const lines = process.binding('natives').fs.split('\n');
  const begin = lines.findIndex((line) => line.startsWith('function readSync('));
  return lines.findIndex((line, at) => at > begin && line.includes('binding.read(')) + 1;
}
const innermost = ['', 'readSync', 'node:fs', lineOfRead()];

function fileOf(site) {
  const name = site.getFileName() || site.getScriptNameOrSourceURL();
  if (name) return name.startsWith('file:') ? fileURLToPath(name) : name;
  return site.isEval() || site.getLineNumber() !== null ? '<anonymous>' : '[native code]';
}

function rowOf(site) {
  const file = fileOf(site);
  app[file] ??= file.startsWith('/') && !file.includes('/node_modules/') && fs.existsSync(file);
  return ['', site.getFunctionName() || '<anonymous>', file, file === '[native code]' ? null : site.getLineNumber()];
}

function M(context = '') {
  const before = [Error.prepareStackTrace, Error.stackTraceLimit];
  const holder = {};
  Error.prepareStackTrace = (_, sites) => sites.filter((site) => !site.isAsync()).map(rowOf);
  Error.stackTraceLimit = Infinity;
  Error.captureStackTrace(holder, M);
  const rows = [innermost, ...holder.stack];
  [Error.prepareStackTrace, Error.stackTraceLimit] = before;
  app['node:fs'] = false;
  const key = JSON.stringify(rows);
  if (!stacks.has(key)) stacks.set(key, stacks.size);
  said.push([++number, context, stacks.get(key)]);
  return number;
}

// For one who says what he did without asking V8, which compiles otherwise what it was asked about.
function note(rows, context = '') {
  const key = JSON.stringify([innermost, ...rows]);
  if (!stacks.has(key)) stacks.set(key, stacks.size);
  for (const [, , file] of rows) app[file] ??= file.startsWith('/') && !file.includes('/node_modules/');
  app['node:fs'] = false;
  said.push([++number, context, stacks.get(key)]);
  return number;
}

function finish() {
  const found = { pid: process.pid, token, app, stacks: [...stacks.keys()].map((key) => JSON.parse(key)), said };
  fs.writeFileSync(`${out}.${token}`, JSON.stringify(found));
  fs.renameSync(`${out}.${token}`, `${out}.${token}.json`);
  if (!isMainThread) return;
  fs.writeFileSync(`${out}.done`, '');
  fs.readSync(0, Buffer.alloc(1), 0, 1, null); // until everything was looked at
}

function ready() {
  fs.writeSync(1, 'ready\n');
  fs.readSync(0, Buffer.alloc(1), 0, 1, null);
}

module.exports = { fd, buffer, M, note, finish, ready, out };
