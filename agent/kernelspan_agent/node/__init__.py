# SPDX-License-Identifier: Apache-2.0
"""The agent of a node: it follows plans, of the operator or of the last time, until it is told to end."""
