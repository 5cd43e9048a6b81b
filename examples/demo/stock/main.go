// SPDX-License-Identifier: Apache-2.0

// Stock says how many of a thing there are: GET /stock/NAME, from PostgreSQL. Nothing in it knows of tracing.
//
// STOCK_DATABASE is the address of the database. Prints the port that it listens on.
package main

import (
	"database/sql"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	_ "github.com/lib/pq"
)

// Stock is what there is of everything.
type Stock struct {
	database *sql.DB
}

// Fill makes the table, with something in it.
func (stock Stock) Fill() error {
	if _, err := stock.database.Exec("CREATE TABLE stock (name text PRIMARY KEY, amount integer NOT NULL)"); err != nil {
		return err
	}
	_, err := stock.database.Exec("INSERT INTO stock VALUES ('tea', 40), ('biscuits', 3), ('coffee', 12)")
	return err
}

// Amount asks the database for one thing; of what it does not know there is nothing.
func (stock Stock) Amount(name string) (amount int, err error) {
	err = stock.database.QueryRow("SELECT amount FROM stock WHERE name = $1", name).Scan(&amount)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return amount, err
}

// Answer answers GET /stock/NAME.
func (stock Stock) Answer(writer http.ResponseWriter, request *http.Request) {
	amount, err := stock.Amount(strings.TrimPrefix(request.URL.Path, "/stock/"))
	if err != nil {
		http.Error(writer, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintln(writer, amount)
}

func main() {
	database, err := sql.Open("postgres", os.Getenv("STOCK_DATABASE"))
	if err != nil {
		log.Fatal(err)
	}
	database.SetConnMaxIdleTime(time.Second)
	stock := Stock{database}
	if err := stock.Fill(); err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	http.HandleFunc("/stock/", stock.Answer)
	log.Fatal(http.Serve(listener, nil))
}
