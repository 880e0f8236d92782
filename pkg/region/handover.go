package region

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"

	"github.com/shmd/shmd/internal/sys"
)

// There are two ways to hand memory over. A child inherits it: Extra in the parent, FromFD in the
// child. Any other process gets it through a Unix socket: SendFiles and ReceiveFiles.

// MaxFiles is the most descriptors that one packet carries.
const MaxFiles = sys.MaxRights

// firstExtra is the number in the child of the first of exec.Cmd.ExtraFiles, after stdin, stdout, stderr.
const firstExtra = 3

// Extra has cmd's process inherit fs, and returns the numbers they will have there, in the same order
// (3 and up if ExtraFiles was empty). Tell them to the child, by an environment variable say. The
// caller keeps its files, which have to stay open until cmd has been started.
func Extra(cmd *exec.Cmd, fs ...*os.File) []int {
	fds := make([]int, len(fs))
	for i := range fs {
		fds[i] = firstExtra + len(cmd.ExtraFiles) + i
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, fs...)
	return fds
}

// FromFD takes an inherited descriptor by its number: a memfd or a file, which becomes close-on-exec
// so that grandchildren do not get it. ErrNotInherited if there is no such descriptor or it is
// something else (a number that was not inherited may be one that the Go runtime uses; it is left
// alone). Take each number only once. name is for error texts.
func FromFD(fd int, name string) (*os.File, error) {
	if fd < firstExtra {
		return nil, fmt.Errorf("descriptor %d for %q: %w: 0, 1 and 2 are stdin, stdout and stderr", fd, name, ErrNotInherited)
	}
	st, err := sys.StatPath(procPath(fd))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("descriptor %d for %q: %w: it is not open", fd, name, ErrNotInherited)
	}
	if err != nil {
		return nil, fmt.Errorf("descriptor %d for %q: %w", fd, name, err)
	}
	if !st.IsRegular {
		return nil, fmt.Errorf("descriptor %d for %q: %w: it is neither a memfd nor a file", fd, name, ErrNotInherited)
	}
	if err := sys.SetCloexec(fd); err != nil {
		return nil, fmt.Errorf("descriptor %d for %q: %w", fd, name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// SendFiles sends one packet with descriptors over a Unix socket, best a "unixpacket" one, which keeps
// packets apart. The caller keeps its files, and may close them when SendFiles has returned: the
// kernel holds what is under way. With descriptors payload must not be empty, since a packet of
// nothing cannot be told from the end. At most MaxFiles: ErrOptions. It blocks until there is room or the
// deadline of c passes.
func SendFiles(c *net.UnixConn, payload []byte, fs []*os.File) error {
	switch {
	case len(fs) > MaxFiles:
		return fmt.Errorf("send descriptors: %w: %d of them: send at most %d in one packet", ErrOptions, len(fs), MaxFiles)
	case len(fs) > 0 && len(payload) == 0:
		return fmt.Errorf("send descriptors: %w: no payload: send at least one byte with them", ErrOptions)
	}
	// Hold all files open, one inside the other, while the innermost sends.
	fds := make([]int, len(fs))
	var hold func(i int) error
	hold = func(i int) error {
		if i < len(fs) {
			return withFD(fs[i], func(fd int) error {
				fds[i] = fd
				return hold(i + 1)
			})
		}
		n, _, err := c.WriteMsgUnix(payload, sys.Rights(fds...), nil)
		if err == nil && n < len(payload) { // a stream socket may take a part; the descriptors went with it
			_, err = c.Write(payload[n:])
		}
		return err
	}
	if err := hold(0); err != nil {
		return fmt.Errorf("send %d descriptors: %w", len(fs), err)
	}
	return nil
}

// ReceiveFiles receives one packet: n bytes into buf, and the descriptors that came with it, in the
// order of sending, close-on-exec, owned by the caller. They can be anything: give them to Open or
// MapFile, which look. On an error none is kept.
//
// Errors: io.EOF when the peer has closed; io.ErrShortBuffer if the packet is longer than buf (the rest
// of it is lost); ErrLostFiles if descriptors were dropped, as a rule because this process has as many
// open as it may; deadlines of c.
func ReceiveFiles(c *net.UnixConn, buf []byte) (n int, fs []*os.File, err error) {
	oob := make([]byte, sys.RightsSpace(MaxFiles))
	n, oobn, flags, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		if errors.Is(err, io.EOF) {
			return 0, nil, io.EOF
		}
		return 0, nil, fmt.Errorf("receive descriptors: %w", err)
	}
	fs, err = sys.ParseRights(oob[:oobn])
	switch {
	case err != nil:
	case sys.RightsTruncated(flags):
		err = ErrLostFiles
	case flags&syscall.MSG_TRUNC != 0:
		err = fmt.Errorf("%w: the packet is longer than %d bytes", io.ErrShortBuffer, len(buf))
	default:
		return n, fs, nil
	}
	for _, f := range fs {
		f.Close()
	}
	return 0, nil, fmt.Errorf("receive descriptors: %w", err)
}
