// SPDX-License-Identifier: Apache-2.0
// Worker threads, each with an isolate of its own, one after another and side by side; each runs other code by the same names.
'use strict';
const fs = require('fs');
const { Worker, isMainThread, workerData } = require('worker_threads');
const { fd, buffer, M, finish, ready, out } = require('./said.js');

const op = () => fs.readSync(fd, buffer, 0, M(), null);

async function main() {
  const count = Number(process.argv[3]);
  ready();
  for (let at = 0; at < count; at++) {
    await Promise.all([0, 1].map((side) => new Promise((resolve, reject) => {
      const worker = new Worker(__filename, { workerData: { out, at: at * 2 + side } });
      worker.on('exit', resolve);
      worker.on('error', reject);
    })));
    op();
  }
  finish();
}

function work() {
  const { at } = workerData;
  const made = new Function('op', `${'\n'.repeat(at % 7)}return (function worker${at}() { return op(); })();`);
  for (let turn = 0; turn < 20; turn++) {
    made(op);
    [turn].map(() => op());
  }
  finish();
}

if (isMainThread) main();
else work();
