// SPDX-License-Identifier: Apache-2.0
// Functions, closures, scripts and contexts that are made, used once and dropped, with collections between (--expose-gc).
'use strict';
const fs = require('fs');
const vm = require('vm');
const { fd, buffer, M, finish, ready } = require('./said.js');

const op = () => fs.readSync(fd, buffer, 0, M(), null);
const count = Number(process.argv[3]);
const pad = (at) => '\n'.repeat(at % 17);
let kept = [];
ready();
for (let at = 0; at < count; at++) {
  new Function('op', `${pad(at)}return (function made${at % 211}() { return op(); })();`)(op);
  eval(`${pad(at + 3)}(function evaluated${at % 197}() {${pad(at)} return op(); })()`);
  new vm.Script(`${pad(at)}(function scripted${at % 101}(op) { return op(); })`, { filename: `/nowhere/${at % 29}.js` }).runInThisContext()(op);
  if (at % 50 === 0) vm.runInNewContext(`${pad(at)}function contextual${at}() { return op(); }\ncontextual${at}()`, { op });
  kept.push({ at, text: 'x'.repeat(at % 4096), closure: () => op() });
  kept[kept.length - 1].closure();
  if (kept.length > 100) kept = [];
  if (at % 25 === 0) globalThis.gc?.({ type: at % 100 ? 'minor' : 'major' });
}
finish();
