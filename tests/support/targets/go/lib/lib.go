// SPDX-License-Identifier: Apache-2.0

// Package lib is a library of the targets.
package lib

import "syscall"

// Call calls f.
//
//go:noinline
func Call(f func()) { f() }

// Read reads as many bytes as number says.
func Read(fd int, buf []byte, number func() int) { syscall.Read(fd, buf[:number()]) }
