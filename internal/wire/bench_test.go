package wire

import "testing"

// What a request and its reply cost, each encoded and decoded: a look-up, and a write of 4 KiB.
func BenchmarkRoundTrip(b *testing.B) {
	for _, x := range []struct {
		name string
		q    Request
		r    Reply
	}{
		{"lookup", Request{ID: 7, Op: OpLookup, Path: "a/name"}, Reply{ID: 7, Attr: &Attr{Ino: 9, Mode: 0o100600, Nlink: 1}}},
		{"write", Request{ID: 7, Op: OpWrite, Handle: 3, Data: make([]byte, 4096)}, Reply{ID: 7, N: 4096}},
	} {
		b.Run(x.name, func(b *testing.B) {
			b.ReportAllocs()
			var request, reply []byte
			for b.Loop() {
				var err error
				if request, err = AppendRequest(request[:0], &x.q); err != nil {
					b.Fatal(err)
				}
				if _, err = DecodeRequest(Body(request)); err != nil {
					b.Fatal(err)
				}
				if reply, err = AppendReply(reply[:0], &x.r); err != nil {
					b.Fatal(err)
				}
				if _, err = DecodeReply(Body(reply)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
