package wire

import (
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

// WriteFiles writes a frame that carries descriptors. They stay open.
func WriteFiles(c *net.UnixConn, frame []byte, files []int) error {
	n, _, err := c.WriteMsgUnix(frame, unix.UnixRights(files...), nil)
	if err == nil && n < len(frame) {
		_, err = c.Write(frame[n:]) // the descriptors went with the first byte
	}
	return err
}

// ReadFiles reads one frame that may carry descriptors, which are close-on-exec and belong to the caller.
func ReadFiles(c *net.UnixConn) (body []byte, files []int, err error) {
	r := &fileReader{conn: c}
	body, err = ReadFrame(r)
	if err != nil {
		for _, fd := range r.files {
			unix.Close(fd)
		}
		return nil, nil, err
	}
	return body, r.files, nil
}

// fileReader reads a stream and keeps the descriptors that come with it.
type fileReader struct {
	conn  *net.UnixConn
	files []int
}

func (r *fileReader) Read(p []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(maxFiles*4))
	n, oobn, flags, _, err := r.conn.ReadMsgUnix(p, oob) // sets MSG_CMSG_CLOEXEC
	if n == 0 && err == nil {
		err = io.EOF
	}
	messages, parseErr := unix.ParseSocketControlMessage(oob[:oobn])
	for _, m := range messages {
		if fds, err := unix.ParseUnixRights(&m); err == nil {
			r.files = append(r.files, fds...)
		}
	}
	if err == nil && parseErr != nil {
		err = parseErr
	}
	if err == nil && (flags&unix.MSG_CTRUNC != 0 || len(r.files) > maxFiles) {
		err = fmt.Errorf("%w: too many descriptors", ErrMalformed)
	}
	return n, err
}
