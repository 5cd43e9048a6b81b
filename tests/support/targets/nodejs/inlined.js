// SPDX-License-Identifier: Apache-2.0
// Calls that V8 makes a part of the code that calls them, of every kind, each with an operation now and then.
'use strict';
const fs = require('fs');
const { fd, buffer, M, finish, ready } = require('./said.js');

ready();
let every = 1;
function hit(at) {
  if (at % every === 0) return fs.readSync(fd, buffer, 0, M(), null);
  return at & 7;
}

function deep1(at) { return deep2(at) + 1; }
function deep2(at) {
  return deep3(at) + 1;
}
const deep3 = (at) =>
  deep4(at) + 1;
function deep4(at) { return at > 0 ? deep5(at) : 0; }
function deep5(at) { return hit(at); }

class Base {
  #kept = 0;
  field = hit(this.constructor.at);
  static at = 1;
  constructor(at) { this.sum = hit(at); }
  get value() {
    return hit(this.sum + 1);
  }
  set value(at) { this.#keep(at); }
  #keep(at) { this.#kept = hit(at); }
  method(at) { return hit(at) + this.#kept; }
  static make(at) { return new this(at); }
}
class Derived extends Base {
  constructor(at) {
    super(at);
    this.more = hit(at);
  }
  method(at) {
    return super.method(at);
  }
}
class Empty extends Derived {}
function Old(at) { this.got = hit(at); }

const bound = hit.bind(null);
const partly = ((left, right) => hit(left + right)).bind(null, 0);
const kept = new Base(1);
const derived = new Derived(1);
const handler = { get(_, name) { return hit(Number(name)); }, apply(_, __, [at]) { return hit(at); } };
const proxy = new Proxy({}, handler);
const called = new Proxy(function target() {}, handler);
const converted = { at: 1, valueOf() { return hit(this.at); }, toString() { return `${hit(this.at)}`; } };
const primitive = { at: 1, [Symbol.toPrimitive]() { return hit(this.at); } };
const many = [{ a: 1, go: (at) => hit(at) }, { b: 1, go(at) { return hit(at); } }, { c: 1, go: hit }];
const iterable = (at) => ({ [Symbol.iterator]: () => ({ left: 2, next() { return { done: !this.left--, value: hit(at) }; } }) });
function rest(...all) { return hit(all[0]); }
function withArguments() { return hit(arguments[0]); }
function tooFew(at, left, right) { return hit(at) + (left === right ? 1 : 0); }
function withDefault(at, value = hit(at)) { return value; }
function recursive(left, at) { return left ? recursive(left - 1, at) : hit(at); }
function* twice(at) { yield hit(at); yield* once(at); }
function* once(at) {
  yield hit(at);
}
function thrower(at) {
  if (at % 3 === 0) throw new Error('now');
  return hit(at);
}
function closure(at) { return () => hit(at); }
function adder(left) {
  return function added(right) {
    return (() => hit(left + right))();
  };
}

const kinds = {
  deep: (at) => deep1(at),
  getter: (at) => { kept.sum = at - 1; return kept.value; },
  setter: (at) => { kept.value = at; },
  method: (at) => derived.method(at),
  construct: (at) => new Base(at).sum,
  derive: (at) => { Base.at = at; return new Derived(at).more; },
  empty: (at) => new Empty(at).more,
  old: (at) => new Old(at).got,
  make: (at) => Derived.make(at).more,
  reflected: (at) => Reflect.construct(Old, [at]).got,
  bound: (at) => bound(at) + partly(at),
  called: (at) => hit.call(null, at) + hit.apply(null, [at]) + Reflect.apply(hit, null, [at]),
  spread: (at) => hit(...[at]),
  rest: (at) => rest(at, 1, 2) + withArguments(at, 1),
  arity: (at) => tooFew(at) + tooFew(at, 1, 2, 3, 4) + withDefault(at),
  closures: (at) => closure(at)() + adder(1)(at - 1),
  many: (at) => many[at % 3].go(at),
  recursive: (at) => recursive(4, at),
  forEach: (at) => { [at, 1].forEach(function each(value) { hit(value); }); },
  map: (at) => [1, at].map((each) => hit(each))[1],
  filter: (at) => [at].filter((each) => hit(each)).length,
  reduce: (at) => [0, at].reduce((sum, each) => sum + hit(each)) + [0, at].reduceRight((sum, each) => sum + hit(each)),
  some: (at) => [at].some((each) => hit(each)) && [at].every((each) => hit(each) >= 0),
  find: (at) => [at].find((each) => hit(each)) ?? [at].findIndex((each) => hit(each)),
  nested: (at) => [at].map((each) => [each].map((inner) => hit(inner))),
  sort: (at) => [at, 1, 2].sort((left, right) => hit(at) + left - right),
  from: (at) => Array.from([at], (each) => hit(each)),
  replace: (at) => 'abc'.replace(/b/, () => `${hit(at)}`),
  parse: (at) => JSON.parse('{"a": 1}', (_, value) => { hit(at); return value; }),
  stringify: (at) => JSON.stringify({ toJSON: () => hit(at) }),
  proxy: (at) => proxy[at] + called(at),
  convert: (at) => { converted.at = primitive.at = at; return +converted + Number(primitive) + `${converted}`.length; },
  generators: (at) => { let sum = 0; for (const each of twice(at)) sum += each; return sum; },
  iterate: (at) => { const [one, two] = iterable(at); return one + two; },
  promise: (at) => { new Promise((resolve) => { resolve(hit(at)); }); },
  caught: (at) => {
    try {
      return thrower(at);
    } catch {
      return hit(at);
    } finally {
      hit(at);
    }
  },
  tagged: (at) => ((strings, value) => hit(value))`a${at}b`,
  optional: (at) => kinds.deep?.(at),
  collections: (at) => { new Set([at]).forEach((each) => hit(each)); new Map([[1, at]]).forEach((each) => hit(each)); },
  switched: (at) => { switch (at % 3) { case 0: return hit(at); case 1: return deep3(at); default: return deep5(at); } },
  looped: (at) => { let sum = 0; for (let left = 3; left; left--) sum += deep4(at); return sum; },
};

async function later(at) {
  const got = hit(at);
  await null;
  return got + hit(at);
}
async function* stream(at) { yield hit(at); }
async function asynchronous(count) {
  for (let at = 1; at <= count; at++) {
    await later(at);
    for await (const _ of stream(at)) hit(at);
  }
}
function loop(kind, count) { for (let at = 1; at <= count; at++) kind(at); }

async function main() {
  const rounds = Number(process.argv[3]), count = Number(process.argv[4]);
  for (let round = 0; round < rounds; round++) {
    every = 1;
    for (const name in kinds) loop(kinds[name], 3);
    await asynchronous(1);
    every = Math.ceil(count / 4) | 1;
    for (const name in kinds) loop(kinds[name], count);
    await asynchronous(count / 8);
  }
  finish();
}
main();
