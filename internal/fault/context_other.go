//go:build !amd64 && !arm64

package fault

type sigContext struct{}

func (*sigContext) dataFault() (write, ok bool) { return false, false }
