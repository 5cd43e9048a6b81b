# SPDX-License-Identifier: Apache-2.0
"""What profiles may use, as the administrator says it (`policy` in the chart's values, one JSON or YAML file).

The default allows what reads nothing secret and leaves nothing to others: no user's probes, no raw statements, no
endpoint but the chart's.
"""

from __future__ import annotations

import msgspec


class Policy(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Each switch allows something."""

    cluster_profiles: bool = True  # the right to make one is RBAC's affair already
    probes: bool = False  # reads arguments of any kernel function or program
    raw_statements: bool = False  # SQL with its values
    user_probes: bool = False  # plain text of TLS connections, by user-space probes
    endpoints: tuple[str, ...] = ()  # where profiles may send spans besides the chart's collector
