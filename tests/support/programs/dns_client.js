// SPDX-License-Identifier: Apache-2.0
// Asks a name server by c-ares, many questions at once, and says of each name its addresses, or the error, as JSON.
// dns_client.js SERVER NAMES...
"use strict";
const { Resolver } = require("node:dns").promises;
const errors = { ENOTFOUND: "NXDOMAIN", EREFUSED: "REFUSED", ESERVFAIL: "SERVFAIL" };
const resolver = new Resolver({ timeout: 20000, tries: 1 });
resolver.setServers([process.argv[2]]);

async function ask(name) {
	const found = [];
	for (const kind of ["A", "AAAA"]) {
		try {
			found.push(...(await resolver.resolve(name, kind)));
		} catch (error) {
			if (error.code !== "ENODATA") return errors[error.code] || String(error);
		}
	}
	return found.sort();
}

async function main() {
	const said = {};
	const names = process.argv.slice(3);
	while (names.length) {
		await Promise.all(names.splice(0, 50).map(async (name) => (said[name] = await ask(name))));
	}
	console.log(JSON.stringify(said));
}

main();
