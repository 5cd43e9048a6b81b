// SPDX-License-Identifier: Apache-2.0

// Go that calls C that calls Go, in goroutines and in threads of C's own. said.go is that of the other target.
package main

/*
#cgo LDFLAGS: -lpthread
#include <pthread.h>
#include <unistd.h>

extern void again(int depth, int who);
static __thread long used[5] = {1}; // so that runtime.g is not the threads' only variable
static char to[1 << 20];

__attribute__((noinline)) static long around(int fd, int before, int after, int depth, int who)
{
	used[1] += read(fd, to, before);
	if (depth > 0)
		again(depth, who);
	used[2] += read(fd, to, after);
	return used[1] + used[2] + depth;
}

static void *begin(void *who)
{
	again(0, (int)(long)who);
	return 0;
}

static void in_thread(int who)
{
	pthread_t thread;

	pthread_create(&thread, 0, begin, (void *)(long)who);
	pthread_join(thread, 0);
}
*/
import "C"

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"syscall"
)

//export again
func again(depth, who C.int) {
	context := fmt.Sprintf("g%d", int(who))
	syscall.Read(fd, buf[:M(context)])
	if depth > 0 {
		call(int(depth)-1, int(who), context)
	}
	grow(context, 20)
	syscall.Read(fd, buf[:M(context)])
}

//go:noinline
func grow(context string, n int) int {
	var frame [2000]byte // the stack is moved while C is on it
	if n == 0 {
		syscall.Read(fd, buf[:M(context)])
		return int(frame[len(context)])
	}
	return grow(context, n-1) + int(frame[n])
}

//go:noinline
func call(depth, who int, context string) {
	C.around(C.int(fd), C.int(M(context)), C.int(M(context)), C.int(depth), C.int(who))
	func() { C.around(C.int(fd), C.int(M(context)), C.int(M(context)), 0, C.int(who)) }()
}

func main() {
	begin()
	workers, _ := strconv.Atoi(os.Args[2])
	rounds, _ := strconv.Atoi(os.Args[3])
	var wait sync.WaitGroup
	for w := 0; w < workers; w++ {
		wait.Add(1)
		go func(w int) {
			defer wait.Done()
			for i := 0; i < rounds; i++ {
				call(i%4, w, fmt.Sprintf("g%d", w))
			}
		}(w)
	}
	wait.Wait()
	for i := 0; i < rounds; i++ {
		C.in_thread(C.int(1000 + i))
	}
	end()
}
