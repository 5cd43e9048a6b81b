# SPDX-License-Identifier: Apache-2.0
"""requests_fast in a process that uses greenlets besides, as SQLAlchemy's asynchronous engine does."""

import greenlet
from requests_fast import app

__all__ = ["app"]
kept = greenlet.greenlet(lambda: None)
kept.switch()
