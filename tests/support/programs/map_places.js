// SPDX-License-Identifier: Apache-2.0
// node map_places.js FILE: reads [[line, column], ...] (from 1), writes [[source, line], null, ...]: what FILE's source map has
// in that line at or before that column, as Node.js's own reader of such maps finds it.
"use strict";
const fs = require("node:fs");
const path = require("node:path");
const { SourceMap } = require("node:module");

const file = process.argv[2];
const [, url] = /\/\/# sourceMappingURL=(\S+)\s*$/.exec(fs.readFileSync(file, "utf8"));
const inside = /^data:.*;base64,(.*)$/.exec(url);
const text = inside ? Buffer.from(inside[1], "base64").toString() : fs.readFileSync(path.join(path.dirname(file), url), "utf8");
const map = new SourceMap(JSON.parse(text));
const places = JSON.parse(fs.readFileSync(0, "utf8")).map(([line, column]) => {
  const found = map.findEntry(line - 1, column - 1);
  if (found.generatedLine !== line - 1 || !found.originalSource) return null;
  return [path.resolve(path.dirname(file), found.originalSource), found.originalLine + 1];
});
process.stdout.write(JSON.stringify(places));
