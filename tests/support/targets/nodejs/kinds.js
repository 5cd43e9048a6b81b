// SPDX-License-Identifier: Apache-2.0
// Every way in which JavaScript calls JavaScript, each with operations of its own, so many times over.
'use strict';
const fs = require('fs');
const vm = require('vm');
const { EventEmitter } = require('events');
const { fd, buffer, M, finish, ready, out } = require('./said.js');

ready();
const op = () => fs.readSync(fd, buffer, 0, M(), null);

class Base {
  #secret() { return op(); }
  field = op();
  static make(value) { return new this(value); }
  constructor(value) { this.value = value; op(); }
  get seen() { return op(); }
  set seen(value) { op(); }
  method(depth) { return depth ? this.method(depth - 1) : this.#secret(); }
  *items() { yield op(); yield* this.more(); }
  *more() { yield op(); }
  async later() { await null; return op(); }
  async *stream() { yield op(); await null; yield op(); }
  static { op(); }
}

class Derived extends Base {
  constructor(value) {
    super(value);
    op();
  }
  method(depth) { return super.method(depth); }
  ['[computed' + 1]() { return op(); }
}

function größe(ß) { return op(); }
function 名前() { return größe(1); }
const arrow = () => { return op(); };
const anonymous = [function () { return op(); }, () => op()];
function withDefault(value = op()) { return value; }
function nested() {
  function inner() {
    return (() => {
      return op();
    })();
  }
  return inner();
}
function thrower() {
  try {
    throw new Error('no');
  } catch {
    return op();
  } finally {
    op();
  }
}
function manyLocals() {
  const made = [];
  let a0 = 1, a1 = 1, a2 = 1, a3 = 1, a4 = 1, a5 = 1, a6 = 1, a7 = 1, a8 = 1, a9 = 1;
  made.push(() => a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7 + a8 + a9);
  return op() + made.length;
}
const tooMany = new Function('op', `${Array.from({ length: 100 }, (_, at) => `let v${at} = ${at};`).join('')}
  const f = () => { ${Array.from({ length: 100 }, (_, at) => `v${at};`).join('')} };
  return op();`);
const o = { ['averyveryverylongnameindeed']: {} };
o.averyveryverylongnameindeed.property = function () { return op(); };
o.averyveryverylongnameindeed.größeres = function () { return op(); };

function once() {
  const derived = Derived.make(1);
  derived.method(3);
  derived['[computed1']();
  derived.seen = derived.seen;
  for (const _ of derived.items()) op();
  名前();
  arrow(); anonymous[0](); anonymous[1]();
  withDefault();
  nested();
  thrower();
  manyLocals();
  tooMany(op);
  o.averyveryverylongnameindeed.property();
  o.averyveryverylongnameindeed.größeres();
  [1, 2].map(() => op());
  [1].forEach(function each() { op(); });
  [2, 1].sort((a, b) => { op(); return a - b; });
  [1, 2].reduce((a) => { op(); return a; });
  Array.from([1], () => op());
  'abc'.replace(/b/g, () => { op(); return 'x'; });
  JSON.parse('{"a": 1}', function reviver(key, value) { op(); return value; });
  JSON.stringify({ toJSON() { op(); return 1; } });
  Reflect.apply(arrow, null, []);
  arrow.call(null); arrow.apply(null, []); arrow.bind(null)();
  new Proxy({}, { get() { return op(); } }).x;
  [...{ *[Symbol.iterator]() { yield op(); } }];
  const { got = op() } = {};
  ((strings, value) => op())`a${1}b`;
  eval('op()');
  (0, eval)('globalThis.viaEval = function viaEval(op) {\n return op(); }');
  globalThis.viaEval(op);
  new Function('op', 'return op()')(op);
  new vm.Script('(function scripted(op) {\n\n return op(); })', { filename: '/nowhere/scripted.js', lineOffset: 10 }).runInThisContext()(op);
  vm.runInNewContext('function other() { return op(); }\nother()', { op });
  vm.compileFunction('return op()', ['op'], { filename: '/nowhere/compiled.js' })(op);
  new Set([1]).forEach(() => op());
  new Map([[1, 2]]).forEach(() => op());
  const emitter = new EventEmitter();
  emitter.on('x', function onX() { op(); });
  emitter.emit('x');
  return new Promise((resolve) => { op(); resolve(); });
}

async function turn() {
  await once();
  op();
  const derived = new Derived(2);
  await derived.later();
  for await (const _ of derived.stream()) op();
  await Promise.all([derived.later(), derived.later()]);
  await new Promise((resolve) => setTimeout(() => { op(); resolve(); }, 1));
  await new Promise((resolve) => setImmediate(() => { op(); resolve(); }));
  await new Promise((resolve) => process.nextTick(() => { op(); resolve(); }));
  await new Promise((resolve) => queueMicrotask(() => { op(); resolve(); }));
  await new Promise((resolve) => fs.stat('/', () => { op(); resolve(); }));
}

async function main() {
  const turns = Number(process.argv[3]);
  const { inModule } = await import('./module.mjs');
  for (let at = 0; at < turns; at++) {
    await turn();
    inModule(op);
  }
  finish();
}
main();
