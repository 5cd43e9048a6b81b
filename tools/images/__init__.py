# SPDX-License-Identifier: Apache-2.0
"""Container images without a registry of images: the product's own, and what its end-to-end tests run beside it.

Standard library only. Roots come from debootstrap, programs from tools/, Python packages from the locks.
"""
