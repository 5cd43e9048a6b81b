// SPDX-License-Identifier: Apache-2.0

// Asks a name server by Go's own resolver, and says of each name its addresses, or the error, as JSON.
//
// dns SERVER GOROUTINES NAMES...
package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"sort"
	"strconv"
	"sync"
)

var resolver = net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
	var dialer net.Dialer
	return dialer.DialContext(ctx, network, net.JoinHostPort(os.Args[1], "53"))
}}

//go:noinline
func askGo(name string) any {
	found, err := resolver.LookupHost(context.Background(), name+".")
	var wrong *net.DNSError
	if errors.As(err, &wrong) {
		if wrong.IsNotFound {
			return "NXDOMAIN"
		}
		return wrong.Err
	}
	sort.Strings(found)
	return found
}

func main() {
	count, _ := strconv.Atoi(os.Args[2])
	var lock sync.Mutex
	var all sync.WaitGroup
	said := map[string]any{}
	for number := range count {
		all.Add(1)
		go func() {
			defer all.Done()
			for at := 3 + number; at < len(os.Args); at += count {
				answer := askGo(os.Args[at])
				lock.Lock()
				said[os.Args[at]] = answer
				lock.Unlock()
			}
		}()
	}
	all.Wait()
	_ = json.NewEncoder(os.Stdout).Encode(said)
}
