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
		return c.short(n)
	}
	b := c.buf[:n:n]
	c.buf = c.buf[n:]
	return b
}

func (c *codec) short(n int) []byte {
	c.fail("ends %d bytes early", n-len(c.buf))
	return nil
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

func (c *codec) text(p *string, limit int) {
	n := c.length(len(*p), limit, 1)
	if !c.decoding {
		c.buf = append(c.buf, *p...)
	} else if b := c.take(n); b != nil {
		*p = string(b)
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

// complete says that a message that is decoded has none of the optional fields that are next.
func (c *codec) complete() bool { return c.decoding && c.bits>>c.next == 0 }

// filled refuses a decoded field that is there and zero.
func (c *codec) filled(is bool) {
	if c.decoding && !is {
		c.fail("field %d is there and zero", c.next-1)
	}
}

// The methods that begin with "opt" code a field that is left out when it is zero. There is one for each type, not one
// that is handed the others: so a codec stays on the stack.

func (c *codec) optU32(p *uint32) {
	if c.present(*p != 0) {
		c.u32(p)
		c.filled(*p != 0)
	}
}

func (c *codec) optU64(p *uint64) {
	if c.present(*p != 0) {
		c.u64(p)
		c.filled(*p != 0)
	}
}

func (c *codec) optI64(p *int64) {
	if c.present(*p != 0) {
		c.i64(p)
		c.filled(*p != 0)
	}
}

func (c *codec) optText(p *string, limit int) {
	if c.present(*p != "") {
		c.text(p, limit)
		c.filled(*p != "")
	}
}

// pointer codes whether there is a struct, and returns the one whose fields are to be coded next, if any.
func pointer[T any](c *codec, p **T) *T {
	if !c.present(*p != nil) {
		return nil
	}
	if c.decoding {
		*p = new(T)
	}
	return *p
}

// list codes the length of a list that is left out when it is empty, and returns that whose elements are to be coded next.
// Each takes at least size bytes.
func list[T any](c *codec, p *[]T, limit, size int) []T {
	if !c.present(len(*p) > 0) {
		return nil
	}
	n := c.length(len(*p), limit, size)
	if c.decoding {
		if n == 0 {
			c.fail("list %d is there and empty", c.next-1)
		}
		*p = make([]T, n)
	}
	return *p
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
	c.optU32(&q.Handle)
	c.optU32(&q.Flags)
	c.optU32(&q.Mode)
	c.optU32(&q.Valid)
	c.optU32(&q.UID)
	c.optU32(&q.GID)
	c.optI64(&q.Offset)
	c.optI64(&q.Length)
	c.optU64(&q.Address)
	c.optI64(&q.Atime)
	c.optI64(&q.Mtime)
	c.optText(&q.Path, MaxPath)
	c.optText(&q.Path2, MaxPath)
	c.data(&q.Data)
	below(c, "attribute set", q.Valid, setAll+1)
	if c.complete() {
		return
	}
	c.optU32(&q.Source)
	c.optI64(&q.SourceOffset)
	c.optU64(&q.Inode)
	c.optU64(&q.Generation)
	c.optU64(&q.Inode2)
	c.optU64(&q.Generation2)
	c.optU32(&q.Umask)
	c.optU32(&q.Closed)
}

func (r *Reply) fields(c *codec) {
	c.reason(&r.Reason)
	c.optU32(&r.Handle)
	c.optI64(&r.N)
	c.optI64(&r.Offset)
	if v := pointer(c, &r.Attr); v != nil {
		c.attr(v)
	}
	if v := pointer(c, &r.Statfs); v != nil {
		c.statfs(v)
	}
	if v := pointer(c, &r.Hello); v != nil {
		c.hello(v)
	}
	if v := pointer(c, &r.Sealed); v != nil {
		c.sealed(v)
	}
	if c.complete() {
		return
	}
	c.optText(&r.Detail, MaxDetail)
	c.optText(&r.Name, MaxPath)
	for i := range list(c, &r.Entries, MaxEntries, 24) {
		c.entry(&r.Entries[i])
	}
	for i := range list(c, &r.Extents, MaxExtents, 28) {
		c.extent(&r.Extents[i])
	}
	for i := range list(c, &r.Names, MaxNames, 4) {
		c.name(&r.Names[i])
	}
	c.data(&r.Data)
	c.files(&r.Files)
}

func (c *codec) reason(p *Reason) {
	if c.present(*p != 0) {
		c.u8((*uint8)(p))
		c.filled(*p != 0)
	}
	below(c, "reason", *p, reasonEnd)
}

// name codes the name of a directory entry or an attribute.
func (c *codec) name(p *string) { c.text(p, maxName) }

// files codes how many descriptors come with the message.
func (c *codec) files(p *[]int) {
	n := uint32(len(*p))
	c.optU32(&n)
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
	c.u32(&a.Mode)
	c.u32(&a.Nlink)
	c.u32(&a.UID)
	c.u32(&a.GID)
	c.i64(&a.Size)
	c.i64(&a.Blocks)
	c.u64(&a.Rdev)
	c.i64(&a.Atime)
	c.i64(&a.Mtime)
	c.i64(&a.Ctime)
	c.i64(&a.Btime)
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
	c.name(&e.Name)
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

// begin makes a codec that appends a frame to b: length, head (id and a number), bits, fields.
func begin(b []byte) codec { return codec{buf: append(b, make([]byte, headBytes)...)} }

// frame completes the frame that was appended to b.
func (c *codec) frame(b []byte, id uint32, number uint16) ([]byte, error) {
	size := len(c.buf) - len(b) - lengthBytes
	if c.err == nil && size > MaxFrame {
		c.fail("%d bytes where %d are allowed", size, MaxFrame)
	}
	if c.err != nil {
		return b, c.err
	}
	head := c.buf[len(b):]
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

// open makes a codec that takes a body apart, and takes its head.
func open(body []byte, id *uint32, number *uint16) codec {
	c := codec{buf: body, decoding: true}
	c.u32(id)
	c.u16(number)
	c.u32(&c.bits)
	return c
}

// end refuses what is left of a body when all fields are taken.
func (c *codec) end() error {
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
	c := begin(b)
	q.fields(&c)
	return c.frame(b, q.ID, uint16(q.Op))
}

// DecodeRequest decodes a body; every error matches ErrMalformed. Data shares memory with the body.
func DecodeRequest(body []byte) (*Request, error) {
	q := new(Request)
	if err := q.Decode(body); err != nil {
		return nil, err
	}
	return q, nil
}

// Decode is DecodeRequest into a request that was used before. After an error it means nothing.
func (q *Request) Decode(body []byte) error {
	*q = Request{}
	var op uint16
	c := open(body, &q.ID, &op)
	q.fields(&c)
	if err := c.end(); err != nil {
		return err
	}
	q.Op = Op(op)
	if q.Op <= opInvalid || q.Op >= OpEnd {
		return fmt.Errorf("%w: operation %d is unknown", ErrMalformed, op)
	}
	return nil
}

// AppendReply appends the frame of a reply to b. A Detail that is too long is cut. ErrTooLong: another field
// exceeds its bound.
func AppendReply(b []byte, r *Reply) ([]byte, error) {
	if len(r.Detail) > MaxDetail {
		short := *r
		short.Detail = r.Detail[:MaxDetail]
		r = &short
	}
	c := begin(b)
	r.fields(&c)
	return c.frame(b, r.ID, r.Errno)
}

// DecodeReply decodes a body; every error matches ErrMalformed. Data shares memory with the body.
func DecodeReply(body []byte) (*Reply, error) {
	r := new(Reply)
	c := open(body, &r.ID, &r.Errno)
	r.fields(&c)
	if err := c.end(); err != nil {
		return nil, err
	}
	return r, nil
}
