# SPDX-License-Identifier: Apache-2.0
"""What profiles may use, as the administrator says it (`policy` in the chart's values, one JSON or YAML file).

The default allows what reads nothing secret and leaves nothing to others: no user's probes, no raw statements, no
endpoint but the chart's.
"""

from __future__ import annotations

import re

import msgspec

# What * stands for in a host: nothing that ends one, so that no other host can be written into it.
_IN_HOST = r"[^\s/?#@:\\\[\]]*"


class Policy(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Each switch allows something."""

    cluster_profiles: bool = True  # the right to make one is RBAC's affair already
    probes: bool = False  # reads arguments of any kernel function or program
    raw_statements: bool = False  # SQL with its values
    user_probes: bool = False  # plain text of TLS connections, by user-space probes
    # Where profiles may send spans besides the chart's collector: as the profile has it, with * for any characters of
    # a host or port, or of what follows them. A lone * is everything.
    endpoints: tuple[str, ...] = ()

    def allows_endpoint(self, endpoint: str) -> bool:
        """Whether spans may be sent there; empty is the chart's own collector."""
        return not endpoint or any(_endpoint(one).fullmatch(endpoint) for one in self.endpoints)


def _endpoint(glob: str) -> re.Pattern[str]:
    if glob == "*":
        return re.compile(r".*")
    found = re.match(r"(?:\w+://)?[^/?#]*", glob)
    host = found[0] if found else ""
    parts = (_IN_HOST.join(map(re.escape, host.split("*"))), ".*".join(map(re.escape, glob[len(host) :].split("*"))))
    return re.compile("".join(parts), re.IGNORECASE)
