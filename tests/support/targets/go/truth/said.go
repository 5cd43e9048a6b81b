// SPDX-License-Identifier: Apache-2.0

// The beginning of every target. An operation is syscall.Read(fd, buf[:M(context)]), or the same of a file: M notes the stack of
// the very line and gives a number that this process never uses again, the read asks for so many bytes of a file of this
// process's own.
package main

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
)

type said struct {
	number  int
	context string
	stack   int
}

var (
	lock   sync.Mutex
	all    []said
	stacks = map[string]int{}
	rows   [][][4]any
	buf    = make([]byte, 1<<20)
	token  string
	file   *os.File
	fd     int
)

func begin() {
	bytes := make([]byte, 6)
	if _, err := rand.Read(bytes); err != nil {
		panic(err)
	}
	token = hex.EncodeToString(bytes)
	var err error
	if file, err = os.OpenFile(fmt.Sprintf("%s.%s.reads", os.Args[1], token), os.O_RDONLY|os.O_CREATE, 0o600); err != nil {
		panic(err)
	}
	fd = int(file.Fd())
	fmt.Println("ready")
	bufio.NewReader(os.Stdin).ReadString('\n')
}

//go:noinline
func M(context string) int { return note(context, 3) }

// N is M for code of others: the stack is noted when the call that wants the number asks for it.
func N(context string) func() int { return func() int { return note(context, 3) } }

func note(context string, skip int) int {
	pcs := make([]uintptr, 400)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(skip, pcs)])
	var text strings.Builder
	var found [][4]any
	for {
		frame, more := frames.Next()
		fmt.Fprintf(&text, "%s %s %d\n", frame.Function, frame.File, frame.Line)
		found = append(found, [4]any{"", frame.Function, frame.File, frame.Line})
		if !more {
			break
		}
	}
	lock.Lock()
	defer lock.Unlock()
	stack, known := stacks[text.String()]
	if !known {
		stack = len(rows)
		stacks[text.String()] = stack
		rows = append(rows, found)
	}
	all = append(all, said{len(all) + 1, context, stack})
	return len(all)
}

func end() {
	app := map[string]bool{}
	for _, stack := range rows {
		for _, row := range stack {
			app[row[2].(string)] = strings.HasPrefix(row[1].(string), "main.")
		}
	}
	list := [][3]any{}
	for _, each := range all {
		list = append(list, [3]any{each.number, each.context, each.stack})
	}
	message := map[string]any{"token": token, "pid": os.Getpid(), "app": app, "stacks": rows, "said": list}
	text, err := json.Marshal(message)
	if err == nil {
		err = os.WriteFile(fmt.Sprintf("%s.%s.json", os.Args[1], token), text, 0o600)
	}
	if err != nil {
		panic(err)
	}
}
