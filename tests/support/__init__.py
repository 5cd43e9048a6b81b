# SPDX-License-Identifier: Apache-2.0
"""What tests share: real servers as context managers and fixtures, and the rule for tiers a machine cannot run."""
