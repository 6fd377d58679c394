package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// ReadFrame reads one frame and returns its body. io.EOF: the peer closed the connection between two frames;
// ErrMalformed: the length is beyond the bound; nothing more can be read from the connection then.
func ReadFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > MaxFrame {
		return nil, fmt.Errorf("%w: a frame of %d bytes", ErrMalformed, n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, noEOF(err)
	}
	return body, nil
}

// noEOF makes an end in the middle of a frame an error of its own.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// maxFiles is how many descriptors a message can carry.
const maxFiles = 4

// WriteFiles writes a frame and the descriptors that it carries, if any. They stay open.
func WriteFiles(c *net.UnixConn, frame []byte, files []int) error {
	if len(files) == 0 {
		_, err := c.Write(frame)
		return err
	}
	n, _, err := c.WriteMsgUnix(frame, unix.UnixRights(files...), nil)
	if err == nil && n < len(frame) {
		_, err = c.Write(frame[n:]) // the descriptors went with the first byte
	}
	return err
}

// ReadFiles reads one frame, and not a byte more, that may carry descriptors, which are close-on-exec and belong to the
// caller.
func ReadFiles(c *net.UnixConn) (body []byte, files []int, err error) {
	r := &fileReader{conn: c}
	body, err = ReadFrame(r)
	if err != nil {
		CloseFiles(r.files)
		return nil, nil, err
	}
	return body, r.files, nil
}

// CloseFiles closes descriptors that came with a message.
func CloseFiles(files []int) {
	for _, fd := range files {
		unix.Close(fd)
	}
}

// Receiver reads replies, and the descriptors that come with them. It is for one goroutine.
type Receiver struct {
	in   *bufio.Reader // of from
	from *fileReader
}

// NewReceiver reads from c, and nobody else does.
func NewReceiver(c *net.UnixConn) *Receiver {
	from := &fileReader{conn: c}
	return &Receiver{in: bufio.NewReaderSize(from, 64<<10), from: from}
}

// Next reads a reply. Its Files are close-on-exec and belong to the caller. After an error nothing more can be read, and
// the descriptors that nobody has got are closed.
func (r *Receiver) Next() (*Reply, error) {
	reply, err := r.next()
	if err != nil {
		CloseFiles(r.from.files)
		r.from.files = nil
	}
	return reply, err
}

func (r *Receiver) next() (*Reply, error) {
	body, err := ReadFrame(r.in)
	if err != nil {
		return nil, err
	}
	reply, err := DecodeReply(body)
	if err != nil {
		return nil, err
	}
	// They came with the first byte of the frame, behind those of the frames before it.
	if len(reply.Files) > len(r.from.files) {
		return nil, fmt.Errorf("%w: %d descriptors where %d should be", ErrMalformed, len(r.from.files), len(reply.Files))
	}
	r.from.files = r.from.files[copy(reply.Files, r.from.files):]
	return reply, nil
}

// fileReader reads a stream and keeps the descriptors that come with it.
type fileReader struct {
	conn  *net.UnixConn
	oob   [32]byte // room for maxFiles of them
	files []int
}

// maxQueued is how many descriptors may wait for the frames that they belong to: one read ends behind the first message
// with descriptors, so that those of a frame not yet complete and of the one behind it are all there can be.
const maxQueued = 2 * maxFiles

func (r *fileReader) Read(p []byte) (int, error) {
	n, oobn, flags, _, err := r.conn.ReadMsgUnix(p, r.oob[:]) // sets MSG_CMSG_CLOEXEC
	if n == 0 && err == nil {
		err = io.EOF
	}
	if oobn == 0 {
		return max(n, 0), err // -1 with an error
	}
	messages, parseErr := unix.ParseSocketControlMessage(r.oob[:oobn])
	for _, m := range messages {
		if fds, err := unix.ParseUnixRights(&m); err == nil {
			r.files = append(r.files, fds...)
		}
	}
	if parseErr != nil {
		return 0, parseErr
	}
	if flags&unix.MSG_CTRUNC != 0 || len(r.files) > maxQueued {
		return 0, fmt.Errorf("%w: too many descriptors", ErrMalformed)
	}
	return n, err
}
