# SPDX-License-Identifier: Apache-2.0
"""What is said on a connection, told from the bytes of its calls: a module for each protocol."""
