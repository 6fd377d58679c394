// Package port is what the host and a guest of test/vm say to each other: lines of JSON over a virtio serial port.
package port

// Request is a command that the guest is to run. Several may run at the same time.
type Request struct {
	ID   int      `json:"id"` // of the host's choice, for the events of the command
	Argv []string `json:"argv"`
	Env  []string `json:"env,omitempty"` // NAME=value, beside what the guest has
}

// Event is what happened to the command of a request, in order: output, then its end. The first event of a guest has
// ID 0 and says that it is ready, or with Error why it is not.
type Event struct {
	ID     int    `json:"id"`
	Output []byte `json:"output,omitempty"`
	Stderr bool   `json:"stderr,omitempty"` // Output was written to standard error
	Done   bool   `json:"done,omitempty"`
	Code   int    `json:"code,omitempty"`  // exit code of a command that is done; 128 + n: killed by signal n
	Error  string `json:"error,omitempty"` // it could not be started
}
