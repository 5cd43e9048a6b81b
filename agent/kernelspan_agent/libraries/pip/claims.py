# SPDX-License-Identifier: Apache-2.0
"""What an index holds once it is read: owners of files by prefix. A look-up is a few dictionary gets."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from kernelspan_agent.model import Library


class Claim(enum.Enum):
    """What an index says of a file when it does not name a library."""

    NOBODY = "nobody"
    UNCLEAR = "unclear"  # several claim it, or its owner has no valid name
    SOURCE = "source"  # an editable install's script, or its link to the author's working copy
    DEEPER = "deeper"  # inside the index only: look at the next component


Owner = Library | Claim


@dataclass(frozen=True, slots=True, eq=False)
class SiteIndex:
    """Owners by prefix. `settled`: nothing was changed so shortly before reading that an install may still go on."""

    claims: dict[str, Owner]
    scripts: dict[str, Owner]
    has_metadata: bool
    settled: bool = True

    @property
    def weight(self) -> int:
        """Entries held in memory."""
        return 1 + len(self.claims) + len(self.scripts)

    def owner(self, path: str) -> Owner:
        """Who owns the source `path`, relative to the directory."""
        end = path.find("/")
        while True:
            claim = self.claims.get(path if end < 0 else path[:end], Claim.NOBODY)
            if claim is not Claim.DEEPER:
                return claim
            if end < 0:
                return Claim.NOBODY
            end = path.find("/", end + 1)


@dataclass(frozen=True, slots=True, eq=False)
class ArchiveIndex:
    """`sites`: indexes by the prefix of their directory, outermost first. `egg`: the zip is this library as a whole.

    `has_landmark`: the standard library is at the top of it. `readable`: it is a zip within our bounds.
    """

    sites: tuple[tuple[str, SiteIndex], ...] = ()
    egg: Library | None = None
    has_landmark: bool = False
    readable: bool = True
    settled: bool = True

    @property
    def weight(self) -> int:
        """Entries held in memory."""
        return 1 + sum(index.weight for _, index in self.sites)
