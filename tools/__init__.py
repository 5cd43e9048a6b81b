# SPDX-License-Identifier: Apache-2.0
"""Programs written in Go that tests and benchmarks run for real, built from pinned modules into the user's cache.

Standard library only: this runs before anything of the project is installed.
"""
