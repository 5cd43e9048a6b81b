// SPDX-License-Identifier: Apache-2.0
// Loops and calls that V8 compiles, inlines, leaves again and compiles anew, with operations now and then.
'use strict';
const fs = require('fs');
const { fd, buffer, M, finish, ready } = require('./said.js');

let every = 1;
function tiny(at) { return at * 2 + 1; }
function leaf(at) {
  if (at % every === 0) {
    return fs.readSync(fd, buffer, 0, M('leaf'), null);
  }
  return tiny(at);
}
function middle(at) {
  const left = leaf(at) + 1;

  return left + leaf(at + 1);
}
class Counter {
  constructor() { this.sum = 0; }
  add(at) {
    this.sum += middle(at);
    return this;
  }
}
function branch(counter, at) {
  return at % 3 === 0
    ? counter.add(at)
    : at % 3 === 1
      ? counter.add(at).add(at + 1)
      : [at].map((each) => counter.add(each))[0];
}
function loop(count) {
  const counter = new Counter();
  for (let at = 1; at <= count; at++) {
    branch(counter, at);
  }
  return counter.sum;
}
function polymorphic(count) {
  const made = [{ a: 1, go: (at) => middle(at) }, { b: 1, go(at) { return leaf(at); } }, { c: 1, go: leaf }];
  let sum = 0;
  for (let at = 1; at <= count; at++) sum += made[at % 3].go(at);
  return sum;
}
function withTry(count) {
  let sum = 0;
  for (let at = 1; at <= count; at++) {
    try {
      if (at % every === 0) throw new Error('now');
      sum += tiny(at);
    } catch (error) {
      sum += leaf(0);
    }
  }
  return sum;
}

const rounds = Number(process.argv[3]);
ready();
for (let round = 0; round < rounds; round++) {
  every = 1; loop(5); polymorphic(3); withTry(2);
  every = 5003; loop(40000); polymorphic(40000); withTry(20000);
}
finish();
