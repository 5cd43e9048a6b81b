# SPDX-License-Identifier: Apache-2.0
"""The user's own probes: from a validated profile to programs that are attached, and what their records mean.

`sources` (where arguments lie, by kind of program), `values` (how each type is read), `conditions` (what decides in the
kernel), `codegen` (the C text of one probe). Nothing of a profile gets into C but numbers.
"""
