// SPDX-License-Identifier: Apache-2.0
// Shakes hands by TLS, many at once, and says of each connection what was agreed upon, as JSON.
// tls_client.js PORT COUNT
"use strict";
const tls = require("node:tls");
const [port, count] = process.argv.slice(2).map(Number);
const OFFERS = [[], ["http/1.1"], ["h2", "http/1.1"]];
const VERSIONS = ["TLSv1.2", "TLSv1.3"];

function shakeHands(number) {
	const offered = OFFERS[number % 3];
	const version = VERSIONS[number % 2];
	const servername = `h${number}.shop.test`;
	return new Promise((resolve) => {
		const socket = tls.connect({
			port, host: "127.0.0.1", servername, rejectUnauthorized: false,
			minVersion: version, maxVersion: version, ...(offered.length ? { ALPNProtocols: offered } : {}),
		});
		socket.on("error", () => resolve([servername, offered, "", "", true]));
		socket.on("secureConnect", () => socket.write("GET / HTTP/1.1\r\n"));
		socket.on("data", () => {
			resolve([servername, offered, socket.getProtocol(), socket.alpnProtocol || "", false]);
			socket.end();
		});
	});
}

async function main() {
	const said = [];
	for (let first = 0; first < count; first += 20) {
		const numbers = [...Array(Math.min(20, count - first)).keys()].map((each) => first + each);
		said.push(...(await Promise.all(numbers.map(shakeHands))));
	}
	console.log(JSON.stringify(said));
}

main();
