// SPDX-License-Identifier: Apache-2.0

// Package lib is a library of the targets.
package lib

// Call calls f.
//
//go:noinline
func Call(f func()) { f() }
