// Command shop is the testbed's demo workload (shop serve) and its load generator (shop load).
package main

import (
	"fmt"
	"os"
	"runtime"
)

const usage = `usage: shop [serve]       serve HTTP on $POD_IP:$PORT, with faults on demand
       shop load --url URL  send requests at a constant rate and count the answers`

func main() {
	runtime.GOMAXPROCS(1) // hundreds run side by side; one thread of work halves what each costs
	command, args := "serve", os.Args[1:]
	if len(args) > 0 {
		command, args = args[0], args[1:]
	}
	var err error
	switch command {
	case "serve":
		err = serve()
	case "load":
		err = load(args)
	default:
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "shop:", err)
		os.Exit(1)
	}
}
