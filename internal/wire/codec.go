package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// ErrMalformed is what every error of decoding matches: the peer does not speak the protocol.
var ErrMalformed = errors.New("malformed message")

// ErrTooLong is returned by encoding when a field exceeds its bound.
var ErrTooLong = errors.New("message too long")

// codec walks over the fields of a message in one direction: it appends them to buf, or takes them from it. One
// description of a struct serves both directions, so that they cannot differ.
//
// Invariant while decoding: buf holds what is not decoded yet. Once err is set nothing changes any more.
type codec struct {
	buf      []byte
	decoding bool
	bits     uint32 // optional fields that are there
	next     uint   // bit of the next optional field
	err      error
}

func (c *codec) fail(format string, args ...any) {
	if c.err != nil {
		return
	}
	kind := ErrTooLong
	if c.decoding {
		kind = ErrMalformed
	}
	c.err = fmt.Errorf("%w: %s", kind, fmt.Sprintf(format, args...))
}

// take removes the next n bytes; nil when there are not as many.
func (c *codec) take(n int) []byte {
	if c.err != nil || n > len(c.buf) {
		c.fail("ends %d bytes early", n-len(c.buf))
		return nil
	}
	b := c.buf[:n:n]
	c.buf = c.buf[n:]
	return b
}

func (c *codec) u8(p *uint8) {
	if !c.decoding {
		c.buf = append(c.buf, *p)
	} else if b := c.take(1); b != nil {
		*p = b[0]
	}
}

func (c *codec) u16(p *uint16) {
	if !c.decoding {
		c.buf = binary.LittleEndian.AppendUint16(c.buf, *p)
	} else if b := c.take(2); b != nil {
		*p = binary.LittleEndian.Uint16(b)
	}
}

func (c *codec) u32(p *uint32) {
	if !c.decoding {
		c.buf = binary.LittleEndian.AppendUint32(c.buf, *p)
	} else if b := c.take(4); b != nil {
		*p = binary.LittleEndian.Uint32(b)
	}
}

func (c *codec) u64(p *uint64) {
	if !c.decoding {
		c.buf = binary.LittleEndian.AppendUint64(c.buf, *p)
	} else if b := c.take(8); b != nil {
		*p = binary.LittleEndian.Uint64(b)
	}
}

func (c *codec) i64(p *int64) {
	u := uint64(*p)
	c.u64(&u)
	*p = int64(u)
}

// length codes the length of a string or list: at most limit, and each of its elements takes at least size bytes.
func (c *codec) length(n, limit, size int) int {
	u := uint32(n)
	if !c.decoding && n > limit {
		c.fail("%d elements where %d are allowed", n, limit)
	}
	c.u32(&u)
	if c.decoding && (u > uint32(limit) || int(u)*size > len(c.buf)) {
		c.fail("%d elements where %d are allowed in %d bytes", u, limit, len(c.buf))
	}
	if c.err != nil {
		return 0
	}
	return int(u)
}

func (c *codec) text(limit int) func(*string) {
	return func(p *string) {
		n := c.length(len(*p), limit, 1)
		if !c.decoding {
			c.buf = append(c.buf, *p...)
		} else if b := c.take(n); b != nil {
			*p = string(b)
		}
	}
}

// present says whether an optional field is to be coded, given whether the encoder has one.
func (c *codec) present(have bool) bool {
	bit := uint32(1) << c.next
	c.next++
	if c.decoding {
		return c.err == nil && c.bits&bit != 0
	}
	if have {
		c.bits |= bit
	}
	return have
}

// optional codes a field that is left out when it is zero.
func optional[T comparable](c *codec, p *T, code func(*T)) {
	var zero T
	if !c.present(*p != zero) {
		return
	}
	code(p)
	if c.decoding && *p == zero {
		c.fail("field %d is there and zero", c.next-1)
	}
}

// pointer codes a struct that is left out when it is nil.
func pointer[T any](c *codec, p **T, code func(*T)) {
	if !c.present(*p != nil) {
		return
	}
	if c.decoding {
		*p = new(T)
	}
	code(*p)
}

// list codes a list that is left out when it is empty. Each element takes at least size bytes.
func list[T any](c *codec, p *[]T, limit, size int, code func(*T)) {
	if !c.present(len(*p) > 0) {
		return
	}
	n := c.length(len(*p), limit, size)
	if c.decoding {
		if n == 0 {
			c.fail("list %d is there and empty", c.next-1)
		}
		*p = make([]T, n)
	}
	for i := range *p {
		if c.err != nil {
			return
		}
		code(&(*p)[i])
	}
}

// data codes a byte string that is left out when it is empty. A decoded one shares memory with the frame.
func (c *codec) data(p *[]byte) {
	if !c.present(len(*p) > 0) {
		return
	}
	n := c.length(len(*p), MaxData, 1)
	if !c.decoding {
		if c.err == nil {
			c.buf = append(c.buf, *p...)
		}
		return
	}
	if n == 0 {
		c.fail("data is there and empty")
	}
	*p = c.take(n)
}

// below refuses a decoded number that is not below end.
func below[T ~uint8 | ~uint16 | ~uint32](c *codec, name string, v, end T) {
	if c.decoding && v >= end {
		c.fail("%s %d is unknown", name, v)
	}
}

func (q *Request) fields(c *codec) {
	optional(c, &q.Handle, c.u32)
	optional(c, &q.Flags, c.u32)
	optional(c, &q.Mode, c.u32)
	optional(c, &q.Valid, c.u32)
	optional(c, &q.UID, c.u32)
	optional(c, &q.GID, c.u32)
	optional(c, &q.Offset, c.i64)
	optional(c, &q.Length, c.i64)
	optional(c, &q.Address, c.u64)
	optional(c, &q.Atime, c.i64)
	optional(c, &q.Mtime, c.i64)
	optional(c, &q.Path, c.text(MaxPath))
	optional(c, &q.Path2, c.text(MaxPath))
	c.data(&q.Data)
	optional(c, &q.Source, c.u32)
	optional(c, &q.SourceOffset, c.i64)
	optional(c, &q.Inode, c.u64)
	optional(c, &q.Generation, c.u64)
	optional(c, &q.Inode2, c.u64)
	optional(c, &q.Generation2, c.u64)
	optional(c, &q.Umask, c.u32)
	below(c, "attribute set", q.Valid, setAll+1)
}

func (r *Reply) fields(c *codec) {
	optional(c, (*uint8)(&r.Reason), c.u8)
	optional(c, &r.Handle, c.u32)
	optional(c, &r.N, c.i64)
	optional(c, &r.Offset, c.i64)
	pointer(c, &r.Attr, c.attr)
	pointer(c, &r.Statfs, c.statfs)
	pointer(c, &r.Hello, c.hello)
	pointer(c, &r.Sealed, c.sealed)
	optional(c, &r.Detail, c.text(MaxDetail))
	optional(c, &r.Name, c.text(MaxPath))
	list(c, &r.Entries, MaxEntries, 24, c.entry)
	list(c, &r.Extents, MaxExtents, 28, c.extent)
	list(c, &r.Names, MaxNames, 4, c.text(maxName))
	c.data(&r.Data)
	c.files(&r.Files)
	below(c, "reason", r.Reason, reasonEnd)
}

// files codes how many descriptors come with the message.
func (c *codec) files(p *[]int) {
	n := uint32(len(*p))
	optional(c, &n, c.u32)
	if n > maxFiles {
		c.fail("%d descriptors where %d are allowed", n, maxFiles)
	}
	if c.decoding && c.err == nil && n > 0 {
		*p = slices.Repeat([]int{-1}, int(n))
	}
}

func (c *codec) attr(a *Attr) {
	c.u64(&a.Ino)
	c.u64(&a.Generation)
	for _, p := range []*uint32{&a.Mode, &a.Nlink, &a.UID, &a.GID} {
		c.u32(p)
	}
	c.i64(&a.Size)
	c.i64(&a.Blocks)
	c.u64(&a.Rdev)
	for _, p := range []*int64{&a.Atime, &a.Mtime, &a.Ctime, &a.Btime} {
		c.i64(p)
	}
	c.u32(&a.Flags)
	below(c, "attribute flags", a.Flags, attrAll+1)
}

func (c *codec) sealed(s *Sealed) {
	c.i64(&s.PID)
	c.u32(&s.Handle)
	c.i64(&s.Off)
	c.i64(&s.Length)
	c.u32(&s.Pin)
	below(c, "pin", s.Pin, 2)
}

func (c *codec) statfs(s *Statfs) {
	for _, p := range []*int64{&s.Blocks, &s.FreeBlocks, &s.Inodes, &s.FreeInodes, &s.MetaBlocks, &s.FreeMetaBlocks} {
		c.i64(p)
	}
}

func (c *codec) hello(h *Hello) {
	for _, p := range []*uint32{&h.Version, &h.MapMask, &h.MapFlags, &h.Granularity, &h.ReadOnly} {
		c.u32(p)
	}
	for _, p := range []*int64{&h.Base, &h.Align, &h.DataBytes, &h.PID} {
		c.i64(p)
	}
}

func (c *codec) entry(e *Entry) {
	c.text(maxName)(&e.Name)
	c.u64(&e.Ino)
	c.u32(&e.Type)
	c.u64(&e.Next)
}

func (c *codec) extent(e *Extent) {
	c.i64(&e.Off)
	c.i64(&e.Len)
	c.i64(&e.Block)
	c.u32(&e.Flags)
	below(c, "extent flags", e.Flags, extentAll+1)
}

// encode appends a frame: length, head (id and a number), bits, fields.
func encode(b []byte, id uint32, number uint16, fields func(*codec)) ([]byte, error) {
	start := len(b)
	c := &codec{buf: append(b, make([]byte, headBytes)...)}
	fields(c)
	size := len(c.buf) - start - lengthBytes
	if c.err == nil && size > MaxFrame {
		c.fail("%d bytes where %d are allowed", size, MaxFrame)
	}
	if c.err != nil {
		return b, c.err
	}
	head := c.buf[start:]
	binary.LittleEndian.PutUint32(head, uint32(size))
	binary.LittleEndian.PutUint32(head[4:], id)
	binary.LittleEndian.PutUint16(head[8:], number)
	binary.LittleEndian.PutUint32(head[10:], c.bits)
	return c.buf, nil
}

const (
	lengthBytes = 4
	headBytes   = lengthBytes + 4 + 2 + 4 // of a frame, its length included
)

// decode takes a body apart.
func decode(body []byte, id *uint32, number *uint16, fields func(*codec)) error {
	c := &codec{buf: body, decoding: true}
	c.u32(id)
	c.u16(number)
	c.u32(&c.bits)
	fields(c)
	if c.err == nil && c.bits>>c.next != 0 {
		c.fail("unknown fields %#x", c.bits>>c.next<<c.next)
	}
	if c.err == nil && len(c.buf) > 0 {
		c.fail("%d bytes too long", len(c.buf))
	}
	return c.err
}

// Body is the body of a whole frame.
func Body(frame []byte) []byte { return frame[lengthBytes:] }

// AppendRequest appends the frame of a request to b. ErrTooLong: a field exceeds its bound.
func AppendRequest(b []byte, q *Request) ([]byte, error) {
	return encode(b, q.ID, uint16(q.Op), q.fields)
}

// DecodeRequest decodes a body; every error matches ErrMalformed. Data shares memory with the body.
func DecodeRequest(body []byte) (*Request, error) {
	q := new(Request)
	var op uint16
	if err := decode(body, &q.ID, &op, q.fields); err != nil {
		return nil, err
	}
	q.Op = Op(op)
	if q.Op <= opInvalid || q.Op >= OpEnd {
		return nil, fmt.Errorf("%w: operation %d is unknown", ErrMalformed, op)
	}
	return q, nil
}

// AppendReply appends the frame of a reply to b. A Detail that is too long is cut. ErrTooLong: another field
// exceeds its bound.
func AppendReply(b []byte, r *Reply) ([]byte, error) {
	if len(r.Detail) > MaxDetail {
		short := *r
		short.Detail = r.Detail[:MaxDetail]
		r = &short
	}
	return encode(b, r.ID, r.Errno, r.fields)
}

// DecodeReply decodes a body; every error matches ErrMalformed. Data shares memory with the body.
func DecodeReply(body []byte) (*Reply, error) {
	r := new(Reply)
	if err := decode(body, &r.ID, &r.Errno, r.fields); err != nil {
		return nil, err
	}
	return r, nil
}
