# SPDX-License-Identifier: Apache-2.0
"""What commands on a user's machine know of a cluster: how to reach it, what it holds, what follows from that."""
