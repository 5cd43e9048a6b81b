// SPDX-License-Identifier: Apache-2.0

// Shakes hands by TLS, from four goroutines, and says of each connection what was agreed upon, as JSON.
// tls_go PORT COUNT
package main

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync"
)

type connection struct {
	name    string
	offered []string
	agreed  string
	chosen  string
	refused bool
}

var offers = [][]string{nil, {"http/1.1"}, {"h2", "http/1.1"}}

func shakeHands(port string, number int) connection {
	said := connection{name: fmt.Sprintf("h%d.shop.test", number), offered: offers[number%3]}
	version := uint16(tls.VersionTLS12 + number%2)
	wanted := &tls.Config{
		ServerName: said.name, NextProtos: said.offered, InsecureSkipVerify: true, MinVersion: version, MaxVersion: version,
	}
	made, err := tls.Dial("tcp", "127.0.0.1:"+port, wanted)
	if err != nil {
		said.refused = true
		return said
	}
	defer made.Close()
	state := made.ConnectionState()
	said.agreed, said.chosen = tls.VersionName(state.Version), state.NegotiatedProtocol
	buffer := make([]byte, 1000)
	for range 3 {
		if _, err := made.Write([]byte("GET / HTTP/1.1\r\n")); err != nil {
			panic(err)
		}
		if _, err := made.Read(buffer); err != nil {
			panic(err)
		}
	}
	return said
}

func main() {
	count, err := strconv.Atoi(os.Args[2])
	if err != nil {
		panic(err)
	}
	said := make([][]any, 4*count)
	var workers sync.WaitGroup
	for first := range 4 {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for number := first; number < len(said); number += 4 {
				one := shakeHands(os.Args[1], number)
				said[number] = []any{one.name, append([]string{}, one.offered...), one.agreed, one.chosen, one.refused}
			}
		}()
	}
	workers.Wait()
	if err := json.NewEncoder(os.Stdout).Encode(said); err != nil {
		panic(err)
	}
}
