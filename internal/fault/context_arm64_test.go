package fault

import "testing"

// Instructions as GNU as encodes them.
func TestStoresOfInstructions(t *testing.T) {
	for _, c := range []struct {
		instruction uint32
		text        string
		write, ok   bool
	}{
		{0xf9000020, "str x0, [x1]", true, true}, {0xf9400020, "ldr x0, [x1]", false, true},
		{0x39000020, "strb w0, [x1]", true, true}, {0x39400020, "ldrb w0, [x1]", false, true},
		{0xb9800020, "ldrsw x0, [x1]", false, true}, {0xf9800020, "prfm pldl1keep, [x1]", false, true},
		{0xf81f8020, "stur x0, [x1, #-8]", true, true}, {0xf85f8020, "ldur x0, [x1, #-8]", false, true},
		{0xf8226820, "str x0, [x1, x2]", true, true}, {0xf8626820, "ldr x0, [x1, x2]", false, true},
		{0x3d800020, "str q0, [x1]", true, true}, {0x3dc00020, "ldr q0, [x1]", false, true},
		{0xa9000440, "stp x0, x1, [x2]", true, true}, {0xa9400440, "ldp x0, x1, [x2]", false, true},
		{0x4c007000, "st1 {v0.16b}, [x0]", true, true}, {0x4c407000, "ld1 {v0.16b}, [x0]", false, true},
		{0xc802fc20, "stlxr w2, x0, [x1]", true, true}, {0xc85ffc20, "ldaxr x0, [x1]", false, true},
		{0xc8230440, "stxp w3, x0, x1, [x2]", true, true}, {0xc87f0440, "ldxp x0, x1, [x2]", false, true},
		{0xc89ffc20, "stlr x0, [x1]", true, true}, {0xc8dffc20, "ldar x0, [x1]", false, true},
		{0xc8a07c41, "cas x0, x1, [x2]", true, true}, {0xc8e07c41, "casa x0, x1, [x2]", true, true},
		{0x48207c82, "casp x0, x1, x2, x3, [x4]", true, true}, {0xf8200041, "ldadd x0, x1, [x2]", true, true},
		{0xf8bfc020, "ldapr x0, [x1]", false, true}, {0x58000000, "ldr x0, .", false, true},
		{0xd50b7420, "dc zva, x0", true, true}, {0x8b000000, "add x0, x0, x0", false, false},
		{0xd65f03c0, "ret", false, false}, {0xd50b7a20, "dc cvac, x0", false, false},
	} {
		if write, ok := stores(c.instruction); write != c.write || ok != c.ok {
			t.Errorf("%s: write %v, %v", c.text, write, ok)
		}
	}
}
