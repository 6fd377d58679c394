package sqlitevfs_test

import (
	"testing"

	"github.com/pmemfs/pmemfs/internal/pooltest"
)

const testPoolSize = 128 << 20

func TestMain(m *testing.M) {
	pooltest.Main(m, map[string]pooltest.Role{"writer": writerRole, "reader": readerRole})
}
