// SPDX-License-Identifier: Apache-2.0

// A server that speaks MongoDB's protocol: FerretDB with SQLite.
// mongo_server PORT FOLDER
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/FerretDB/FerretDB/ferretdb"
)

func main() {
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	server, err := ferretdb.New(&ferretdb.Config{
		Listener:  ferretdb.ListenerConfig{TCP: "127.0.0.1:" + os.Args[1]},
		Handler:   "sqlite",
		SQLiteURL: "file:" + os.Args[2] + "/",
	})
	if err != nil {
		panic(err)
	}
	if err = server.Run(stop); err != nil {
		panic(err)
	}
}
