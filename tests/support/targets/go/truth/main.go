// SPDX-License-Identifier: Apache-2.0

// Every way in which Go code calls Go code, from many goroutines at once that change threads all the time.
package main

import (
	"fmt"
	"os"
	"reflect"
	"runtime"
	"sort"
	"strconv"
	"sync"
	"syscall"
	"time"

	"example.com/forked"
	"example.com/lib"
	"example.com/lib/inner"
	"example.com/local.v2"
)

type base struct{ context string }

func (b base) Value() { syscall.Read(fd, buf[:M(b.context)]) }

func (b *base) Pointer() { file.Read(buf[:M(b.context)]) }

type outer struct {
	*base
	n int
}

type shown interface {
	Value()
	Pointer()
}

type pair[K comparable, V any] struct {
	key   K
	value V
}

func (p *pair[K, V]) read(context string) V {
	syscall.Read(fd, buf[:M(context)])
	return p.value
}

func each[T any](list []T, f func(T) T) {
	for i := range list {
		list[i] = f(list[i])
	}
}

//go:noinline
func eachKept[T any](list []T, f func(T)) {
	for _, item := range list {
		f(item)
	}
}

func one(context string) { two(context) }

func two(context string) {
	three(context)
	three(context)
}

func three(context string) { syscall.Read(fd, buf[:M(context)]) }

//go:noinline
func recurse(n int, context string) int {
	if n == 0 {
		return four(context)
	}
	return recurse(n-1, context) + 1
}

func four(context string) int {
	n, _ := syscall.Read(fd, buf[:M(context)])
	return n
}

//go:noinline
func large(context string) byte {
	var frame [60000]byte // more than a goroutine begins with: its stack is moved
	syscall.Read(fd, buf[:M(context)])
	frame[len(context)] = 1
	syscall.Read(fd, buf[:M(context)])
	return frame[len(context)]
}

func deferred(context string) {
	defer func() {
		syscall.Read(fd, buf[:M(context)])
	}()
	for i := 0; i < 2; i++ {
		defer func(i int) { syscall.Read(fd, buf[:M(context)]) }(i)
	}
	syscall.Read(fd, buf[:M(context)])
}

func panics(context string) {
	defer func() {
		recover()
		syscall.Read(fd, buf[:M(context)])
	}()
	defer func() { syscall.Read(fd, buf[:M(context)]) }()
	var none *outer
	if len(context)%2 == 0 {
		none.n++
	}
	panic(context)
}

func reflected(context string) {
	reflect.ValueOf(three).Call([]reflect.Value{reflect.ValueOf(context)})
	reflect.ValueOf(&base{context}).MethodByName("Pointer").Call(nil)
	made := reflect.MakeFunc(reflect.TypeOf(three), func(arguments []reflect.Value) []reflect.Value {
		syscall.Read(fd, buf[:M(arguments[0].String())])
		return nil
	})
	made.Interface().(func(string))(context)
}

func sorted(context string) {
	list := []int{3, 1, 2}
	sort.Slice(list, func(i, j int) bool {
		syscall.Read(fd, buf[:M(context)])
		return list[i] < list[j]
	})
}

//go:nosplit
//go:noinline
func unsplit(f func()) { f() }

var state int

//go:nosplit
//go:noinline
func frameless() { bare() }

//go:noinline
func bare() {
	syscall.Read(fd, buf[:M("main")])
	state++
}

func round(context string, i int) {
	b := &base{context}
	o := outer{b, i}
	var s shown = o
	b.Value()
	b.Pointer()
	s.Value()
	s.Pointer()
	f := o.Value
	f()
	g := (*base).Pointer
	g(b)
	(&pair[string, int]{"k", 1}).read(context)
	(&pair[int, *base]{1, b}).read(context)
	each([]string{"a"}, func(x string) string { syscall.Read(fd, buf[:M(context)]); return x })
	eachKept([]*base{b}, func(x *base) { syscall.Read(fd, buf[:M(context)]) })
	eachKept([]int{1}, func(x int) { func() { one(context) }() })
	one(context)
	recurse(i%30, context)
	deferred(context)
	panics(context)
	reflected(context)
	sorted(context)
	unsplit(func() { three(context) })
	lib.Call(func() { syscall.Read(fd, buf[:M(context)]) })
	lib.Read(fd, buf, N(context))
	inner.Read(fd, buf, N(context))
	forked.Read(fd, buf, N(context))
	local.Read(fd, buf, N(context))
	inner.Twice(func() { syscall.Read(fd, buf[:M(context)]) })
	var once sync.Once
	once.Do(func() { syscall.Read(fd, buf[:M(context)]) })
	if i%7 == 0 {
		large(context)
	}
	if i%11 == 0 {
		time.Sleep(time.Microsecond)
	}
	runtime.Gosched()
}

func main() {
	begin()
	workers, rounds := number(2), number(3)
	var wait sync.WaitGroup
	stop := make(chan bool)
	go churn(stop)
	for w := 0; w < workers; w++ {
		wait.Add(1)
		go func(context string, locked bool) {
			defer wait.Done()
			if locked {
				runtime.LockOSThread()
			}
			for i := 0; i < rounds; i++ {
				round(context, i)
			}
		}(fmt.Sprintf("g%d", w), w%5 == 4)
	}
	wait.Wait()
	for i := 0; i < rounds; i++ { // one after another: addresses of goroutines are used again
		done := make(chan bool)
		context := fmt.Sprintf("s%d", i)
		go func() { one(context); done <- true }()
		<-done
		time.AfterFunc(0, func() { syscall.Read(fd, buf[:M("timer"+context)]); done <- true })
		<-done
	}
	recurse(200, "main")
	frameless()
	close(stop)
	end()
}

// Work that makes the collector run, stacks move and goroutines change threads.
func churn(stop chan bool) {
	for {
		select {
		case <-stop:
			return
		default:
			_ = make([]byte, 1<<16)
			runtime.Gosched()
			if state%2 == 0 {
				time.Sleep(10 * time.Microsecond)
			}
		}
	}
}

func number(index int) int {
	found, err := strconv.Atoi(os.Args[index])
	if err != nil {
		panic(err)
	}
	return found
}
