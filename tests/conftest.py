# SPDX-License-Identifier: Apache-2.0
"""Fixtures live in tests/support, one module a subject; this file only names them."""

pytest_plugins = ["tests.support.fixtures", "tests.support.tiers"]
