package wire

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func drawResume(t *rapid.T) *Resume {
	return &Resume{
		Token:    Token{Slot: rapid.Uint32().Draw(t, "slot"), Nonce: [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "nonce"))},
		Handles:  drawList(t, "handles", func(t *rapid.T) uint32 { return rapid.Uint32().Draw(t, "handle") }),
		Mappings: drawList(t, "mappings", func(t *rapid.T) uint32 { return rapid.Uint32().Draw(t, "mapping") }),
		Pins: drawList(t, "pins", func(t *rapid.T) Pin {
			return Pin{rapid.Uint32().Draw(t, "mapping"), rapid.Uint32().Draw(t, "pin")}
		}),
	}
}

func TestResumeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawResume(t)
		b, err := EncodeResume(r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeResume(b)
		if err != nil || !cmp.Equal(got, r) {
			t.Fatalf("%v\n%s", err, cmp.Diff(r, got))
		}
		for cut := range b {
			if _, err := DecodeResume(b[:cut]); !errors.Is(err, ErrMalformed) {
				t.Fatalf("cut off at %d of %d: %v", cut, len(b), err)
			}
		}
		if _, err := DecodeResume(append(b, 0)); !errors.Is(err, ErrMalformed) {
			t.Fatalf("a byte too long: %v", err)
		}
		token := AppendToken([]byte("x"), r.Token)
		if got, err := DecodeToken(token[1:]); err != nil || got != r.Token || len(token) != 1+TokenBytes {
			t.Fatalf("token %v, %v", got, err)
		}
		if _, err := DecodeToken(token); !errors.Is(err, ErrMalformed) {
			t.Fatalf("a token that is too long: %v", err)
		}
	})
}

func TestResumeBounds(t *testing.T) {
	most := (MaxData - TokenBytes - 3*4) / 8
	b, err := EncodeResume(&Resume{Pins: make([]Pin, most)})
	if err != nil || len(b) > MaxData {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if _, err := EncodeResume(&Resume{Pins: make([]Pin, most+1)}); !errors.Is(err, ErrTooLong) {
		t.Errorf("one more: %v", err)
	}
	if _, err := DecodeResume(bytes.Repeat([]byte{255}, 100)); !errors.Is(err, ErrMalformed) {
		t.Errorf("a list of 4 billion: %v", err)
	}
}

func FuzzDecodeResume(f *testing.F) {
	b, _ := EncodeResume(&Resume{Handles: []uint32{1, 2}, Mappings: []uint32{3}, Pins: []Pin{{3, 1}}})
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeResume(b)
		if err != nil {
			return
		}
		if again, err := EncodeResume(r); err == nil && !bytes.Equal(again, b) {
			t.Errorf("%x is read as %+v, which is %x", b, r, again)
		}
	})
}
