// SPDX-License-Identifier: Apache-2.0
// Other projects' definitions, for tests of what we make for them: only downloaded, nothing of it is built.
module kernelspan.io/tests/foreign

go 1.26

require (
	github.com/openshift/api v0.0.0-20240830023148-b7d0481c9094
	github.com/prometheus-operator/prometheus-operator v0.85.0
)
