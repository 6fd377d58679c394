// Package adapter has what the adapters for databases share: names, locks on them, and mappings whose stores they make durable.
package adapter

import "path"

// Name makes a name of the pool of one of a program that knows absolute names, or some with "." and ".." elements.
func Name(name string) string {
	if name = path.Clean("/" + name)[1:]; name == "" {
		return "."
	}
	return name
}
