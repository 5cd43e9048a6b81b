// SPDX-License-Identifier: Apache-2.0

// One service of a chain, like joins_app.py, by net/http: answers, and asks the next one that X-Route names.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
)

var fresh = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

func ask(route, hop string) error {
	first, rest, _ := strings.Cut(route, ",")
	how, port, _ := strings.Cut(first, ":")
	number, depth, _ := strings.Cut(hop, ".")
	deeper, _ := strconv.Atoi(depth)
	if !strings.Contains(port, ":") {
		port = "127.0.0.1:" + port
	}
	request, _ := http.NewRequest("GET", "http://"+port+"/call", nil)
	request.Header.Set("X-Hop", fmt.Sprintf("%s.%d", number, deeper+1))
	request.Header.Set("X-Route", rest)
	client := http.DefaultClient
	if how == "new" {
		client = fresh
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return err
}

func call(answer http.ResponseWriter, request *http.Request) {
	if route := request.Header.Get("X-Route"); route != "" {
		if err := ask(route, request.Header.Get("X-Hop")); err != nil {
			http.Error(answer, err.Error(), http.StatusBadGateway)
			return
		}
	}
	fmt.Fprint(answer, request.Header.Get("X-Hop"))
}

func main() {
	http.HandleFunc("/call", call)
	panic(http.ListenAndServe(":"+os.Args[1], nil))
}
