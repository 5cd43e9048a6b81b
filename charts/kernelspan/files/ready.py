# SPDX-License-Identifier: Apache-2.0
"""Asks the URL given until it answers 200, for a minute; exit status 1 and the last answer if it does not."""

import sys
import time
import urllib.error
import urllib.request

deadline, said = time.monotonic() + float(sys.argv[2] if len(sys.argv) > 2 else 60), ""
while time.monotonic() < deadline:
    try:
        with urllib.request.urlopen(sys.argv[1], timeout=5) as answer:  # noqa: S310 - the chart's own Service
            print(sys.argv[1], answer.status)
            sys.exit(0)
    except urllib.error.HTTPError as error:
        said = f"{error.code} {error.read(200).decode('utf-8', 'replace')}"
    except OSError as error:
        said = str(error)
    time.sleep(1)
print(sys.argv[1], "is not ready:", said, file=sys.stderr)
sys.exit(1)
