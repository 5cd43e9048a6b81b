// SPDX-License-Identifier: Apache-2.0

// Package inner is a package below the module's own.
package inner

// Twice calls f twice, and is inlined.
func Twice(f func()) {
	f()
	f()
}
