// SPDX-License-Identifier: Apache-2.0

// Serves HTTP/2 in plain text by net/http and asks it from many goroutines on one connection: http2_go ADDRESS COUNT SIZE AT_ONCE.
// Prints, as JSON, what came of each request: number, method, status.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
)

type result struct {
	Number int
	Method string
	Status int
}

func work(answer http.ResponseWriter, request *http.Request) {
	body, _ := io.ReadAll(request.Body)
	number, _ := strconv.Atoi(strings.Split(request.URL.Path, "/")[2])
	if number%10 == 7 {
		answer.WriteHeader(http.StatusServiceUnavailable)
	}
	answer.Write(bytes.Repeat([]byte("r"), len(body)*2))
}

func ask(client *http.Client, address string, number, size int) result {
	method, body := "GET", io.Reader(nil)
	if number%2 == 1 {
		method, body = "POST", bytes.NewReader(make([]byte, number%7*size/6))
	}
	url := fmt.Sprintf("http://%s/job/%d/x?token=s3cret", address, number)
	request, _ := http.NewRequest(method, url, body)
	request.Header.Set("Authorization", "s3cret")
	request.Header.Set("X-More", strings.Repeat("m", number%5*1000))
	answer, err := client.Do(request)
	if err != nil {
		panic(err)
	}
	io.Copy(io.Discard, answer.Body)
	answer.Body.Close()
	return result{number, method, answer.StatusCode}
}

func main() {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		panic(err)
	}
	count, _ := strconv.Atoi(os.Args[2])
	size, _ := strconv.Atoi(os.Args[3])
	atOnce, _ := strconv.Atoi(os.Args[4]) // that many answers may come by one call
	server := &http.Server{Protocols: &protocols, Handler: http.HandlerFunc(work)}
	go server.Serve(listener)
	client := &http.Client{Transport: &http.Transport{Protocols: &protocols}}
	results := make([]result, count)
	var all sync.WaitGroup
	for first := 0; first < count; first += atOnce {
		for at := first; at < min(first+atOnce, count); at++ {
			all.Add(1)
			go func() {
				defer all.Done()
				results[at] = ask(client, os.Args[1], at+1, size)
			}()
		}
		all.Wait()
	}
	said, _ := json.Marshal(results)
	fmt.Println(string(said))
}
