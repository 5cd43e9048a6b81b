// SPDX-License-Identifier: Apache-2.0
// A program with the function that examples/12-go-function.yaml names. Says what it was asked and what it answered, once
// its input has a byte: in one goroutine, then in many at once, each deep enough for its stack to be moved.
package main

import (
	"fmt"
	"os"
	"strings"
)

//go:noinline
func Quote(item, region string, count int) int {
	if count < 0 {
		return -1
	}
	return len(item)*1000 + len(region)*100 + count
}

//go:noinline
func deeper(levels int, item string, count int) int {
	var room [256]byte
	if levels > 0 {
		room[levels%256] = 1
		answer := deeper(levels-1, item, count)
		if room[levels%256] != 1 {
			panic("the stack was moved wrongly")
		}
		return answer
	}
	return Quote(item, "süd", count)
}

func main() {
	fmt.Println("ready")
	os.Stdin.Read(make([]byte, 1))
	for count := -1; count < 5; count++ {
		fmt.Println("tea", "north-west", count, Quote("tea", "north-west", count))
	}
	said := make(chan string)
	for count := 0; count < 50; count++ {
		go func(count int) {
			item := strings.Repeat("c", count%7+1)
			said <- fmt.Sprintln(item, "süd", count, deeper(count*10, item, count))
		}(count)
	}
	for count := 0; count < 50; count++ {
		fmt.Print(<-said)
	}
}
