// SPDX-License-Identifier: Apache-2.0
module kernelspan.io/kind-e2e/pause

go 1.25.0
