# SPDX-License-Identifier: Apache-2.0
"""The service next door: GET /price/NAME answers with a price. Prints the port it listens on.

prices.py [HOST PORT]: by itself a free port on loopback.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Prices(BaseHTTPRequestHandler):
    """Every name has a price; the longer, the dearer."""

    def do_GET(self) -> None:
        """Answer with the price in cents."""
        body = json.dumps({"cents": 100 * len(self.path.rpartition("/")[2])}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    host, port = sys.argv[1:] or ("127.0.0.1", "0")
    server = ThreadingHTTPServer((host, int(port)), Prices)
    print(server.server_port, flush=True)
    sys.stdout.close()
    server.serve_forever()
