//go:build !amd64 && !arm64

package fault

type sigContext struct{ pc uintptr }

func (*sigContext) dataFault() (write, ok bool) { return false, false }
