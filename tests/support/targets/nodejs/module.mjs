// SPDX-License-Identifier: Apache-2.0
// A module of ECMAScript, named by a URL; its own code runs once.
import { createRequire } from 'node:module';
import fs from 'node:fs';

const { fd, buffer, M } = createRequire(import.meta.url)('./said.js');
fs.readSync(fd, buffer, 0, M(), null);

export function inModule(op) {
  return (function within() {
    return op();
  })();
}
export default class { static go(op) { return op(); } }
