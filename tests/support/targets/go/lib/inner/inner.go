// SPDX-License-Identifier: Apache-2.0

// Package inner is a package below the module's own.
package inner

import "syscall"

// Twice calls f twice, and is inlined.
func Twice(f func()) {
	f()
	f()
}

// Read reads as many bytes as number says.
//
//go:noinline
func Read(fd int, buf []byte, number func() int) { syscall.Read(fd, buf[:number()]) }
