package wire

// Token is what the reply to Hello gives to a client whose session the next server takes over, should this one die:
// by it the client resumes the session. Nobody else knows it.
type Token struct {
	Slot  uint32
	Nonce [16]byte
}

// TokenBytes is the length of an encoded token.
const TokenBytes = 4 + 16

// Resume is the Data of Hello with HelloResume: whose session it is, and what of it the client still has. Whatever is
// not in it was given up by requests that nobody has answered, or was made by such, and is gone after the reply.
type Resume struct {
	Token    Token
	Handles  []uint32
	Mappings []uint32
	Pins     []Pin
}

// Pin is the number of a pin, and of the mapping that it is one of.
type Pin struct{ Mapping, Number uint32 }

func (c *codec) token(t *Token) {
	c.u32(&t.Slot)
	if !c.decoding {
		c.buf = append(c.buf, t.Nonce[:]...)
	} else if b := c.take(len(t.Nonce)); b != nil {
		t.Nonce = [16]byte(b)
	}
}

func (c *codec) resume(r *Resume) {
	c.token(&r.Token)
	numbers(c, &r.Handles, 4, c.u32)
	numbers(c, &r.Mappings, 4, c.u32)
	numbers(c, &r.Pins, 8, func(p *Pin) { c.u32(&p.Mapping); c.u32(&p.Number) })
	if !c.decoding && len(c.buf) > MaxData {
		c.fail("%d bytes where %d are allowed", len(c.buf), MaxData)
	}
}

// numbers codes a list that may be empty. Each element takes size bytes.
func numbers[T any](c *codec, p *[]T, size int, code func(*T)) {
	n := c.length(len(*p), MaxData/size, size)
	if c.decoding && n > 0 {
		*p = make([]T, n)
	}
	for i := range *p {
		code(&(*p)[i])
	}
}

// AppendToken appends a token to b.
func AppendToken(b []byte, t Token) []byte {
	c := &codec{buf: b}
	c.token(&t)
	return c.buf
}

// DecodeToken is the inverse of AppendToken; every error matches ErrMalformed.
func DecodeToken(b []byte) (t Token, err error) {
	return t, decodeWhole(b, func(c *codec) { c.token(&t) })
}

// EncodeResume encodes what is the Data of Hello. ErrTooLong: the client has more than fits into a message.
func EncodeResume(r *Resume) ([]byte, error) {
	c := &codec{}
	c.resume(r)
	return c.buf, c.err
}

// DecodeResume is the inverse of EncodeResume; every error matches ErrMalformed.
func DecodeResume(b []byte) (*Resume, error) {
	r := new(Resume)
	return r, decodeWhole(b, func(c *codec) { c.resume(r) })
}

func decodeWhole(b []byte, fields func(*codec)) error {
	c := &codec{buf: b, decoding: true}
	fields(c)
	if c.err == nil && len(c.buf) > 0 {
		c.fail("%d bytes too long", len(c.buf))
	}
	return c.err
}
