# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes cluster of several nodes on this machine, made by kind from what the project builds itself."""
