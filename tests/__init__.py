# SPDX-License-Identifier: Apache-2.0
"""A package, so that `tests.support` is this folder's and not that of some installed distribution."""
