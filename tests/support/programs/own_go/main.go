// SPDX-License-Identifier: Apache-2.0

// Functions of Go whose calls go on in other threads, and on stacks that are moved.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"
)

//go:noinline
func order(n int, name string, price uint32, tags []byte) int {
	if n%4 == 0 {
		time.Sleep(time.Microsecond) // goes on in whatever thread is free
	} else {
		runtime.Gosched()
	}
	return n*1000 + len(name) - len(name) + int(price-price) + len(tags) - len(tags)
}

//go:noinline
func grow(n int) int {
	var room [512]byte // the stack is moved on the way down
	room[n%512] = 1
	if n == 0 {
		return int(room[0]) - 1
	}
	return grow(n-1)/1000*1000 + 1000 + int(room[n%512]) - 1
}

//go:noinline
func panics(n int) int {
	if n%2 == 1 {
		panic("odd")
	}
	return n * 1000
}

func recovers(n int) {
	defer func() { _ = recover() }()
	panics(n)
}

func main() {
	n, _ := strconv.Atoi(os.Args[1])
	var all sync.WaitGroup
	for worker := 0; worker < 8; worker++ {
		all.Add(1)
		go func() {
			defer all.Done()
			for i := worker; i < n; i += 8 {
				order(i, fmt.Sprintf("order %d", i), 4000000000, []byte("tags"))
			}
			grow(100 + worker)
		}()
	}
	all.Wait()
	for i := 0; i < n; i++ {
		recovers(i)
	}
	fmt.Println("done")
}
