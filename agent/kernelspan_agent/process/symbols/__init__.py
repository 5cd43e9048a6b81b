# SPDX-License-Identifier: Apache-2.0
"""Functions and static probes of a file that another process runs: where a uprobe can be attached, and what is found there.

Nothing is kept: a file is read when a probe names it. Every file may be crafted, so all of it is read in bounded pieces
by pread (a mapped file could be truncated under us), and no object is made for a symbol that nobody asked for.
"""
