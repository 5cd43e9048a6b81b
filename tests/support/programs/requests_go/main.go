// SPDX-License-Identifier: Apache-2.0

// Answers `/job/N/COUNT` like requests_app.py, by net/http.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

func touch(number string, step int) {
	_, _ = os.Stat(fmt.Sprintf("/kernelspan-request/%s/%d", number, step))
}

func work(answer http.ResponseWriter, request *http.Request) {
	size, _ := io.Copy(io.Discard, request.Body)
	steps := strings.Split(request.URL.Path, "/")
	number := steps[2]
	count, _ := strconv.Atoi(steps[3])
	wait, _ := strconv.Atoi(number)
	for step := 0; step < count; step++ {
		touch(number, step)
		if step%2 == 1 {
			time.Sleep(time.Duration(wait%3) * time.Millisecond)
		}
	}
	if wait%10 == 7 {
		answer.WriteHeader(http.StatusInternalServerError)
	}
	fmt.Fprintf(answer, "%s %d", number, size)
}

func main() {
	http.HandleFunc("/job/", work)
	panic(http.ListenAndServe(os.Args[1], nil))
}
