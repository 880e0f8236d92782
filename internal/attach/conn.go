package attach

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/shmd/shmd/internal/sys"
)

// A Conn is one end of a connection. One goroutine may send while another receives; requests (Call and what is built on
// it) are made one at a time. A call that its context ends leaves the connection useless, since the answer may still
// come: close it.
type Conn struct {
	u     *net.UnixConn
	call  sync.Mutex // held over a request and its reply
	rmu   sync.Mutex
	buf   []byte // of MaxPacket+1 bytes, so that a packet too large is noticed
	oob   []byte
	wmu   sync.Mutex
	hello Reply
}

// NewConn makes a Conn of a connected socket of type "unixpacket" and takes it over.
func NewConn(u *net.UnixConn) *Conn {
	return &Conn{u: u, buf: make([]byte, MaxPacket+1), oob: make([]byte, sys.RightsSpace(sys.MaxRights))}
}

// Unix is the socket, for the peer's credentials.
func (c *Conn) Unix() *net.UnixConn { return c.u }

// Hello is the daemon's answer to the ping of Dial: its pid, version and region.
func (c *Conn) Hello() Reply { return c.hello }

// Close ends the connection; calls under way return. The daemon notices, but the end of a connection does not end its
// attachment: that is over when the process is, or after a detach.
func (c *Conn) Close() error { return c.u.Close() }

// Send sends one packet, with at most MaxFiles descriptors beside it; the caller keeps its files. It waits while the
// peer's queue is full. Errors: ErrTooLarge, ErrBadPacket, ErrHungUp, ctx.Err().
func (c *Conn) Send(ctx context.Context, packet []byte, files []*os.File) error {
	switch {
	case len(packet) == 0:
		return bad("nothing to send")
	case len(packet) > MaxPacket:
		return fmt.Errorf("%w: %d bytes", ErrTooLarge, len(packet))
	case len(files) > MaxFiles:
		return bad("%d descriptors in one packet; at most %d", len(files), MaxFiles)
	}
	fds := make([]int, 0, len(files))
	for _, f := range files {
		rc, err := f.SyscallConn() // not Fd: it changes the file's mode
		if err != nil {
			return fmt.Errorf("send descriptor %s: %w", f.Name(), err)
		}
		if err := rc.Control(func(fd uintptr) { fds = append(fds, int(fd)) }); err != nil {
			return fmt.Errorf("send descriptor %s: %w", f.Name(), err)
		}
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	err := bounded(ctx, c.u.SetWriteDeadline, func() error {
		_, _, err := c.u.WriteMsgUnix(packet, sys.Rights(fds...), nil)
		return err
	})
	runtime.KeepAlive(files)
	return hungUp("send", err)
}

// Receive returns the next packet and its descriptors, which the caller closes. Errors: io.EOF when the peer closed the
// connection between two packets, ErrHungUp when it broke, ErrTooLarge, ErrTruncated (descriptors were closed; the
// connection can be used on), ctx.Err().
func (c *Conn) Receive(ctx context.Context) (packet []byte, files []*os.File, err error) {
	return c.receive(ctx, c.oob)
}

// receive is Receive with room for descriptors; without any the kernel drops them: ErrTruncated.
func (c *Conn) receive(ctx context.Context, room []byte) (packet []byte, files []*os.File, err error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	var n, oobn, flags int
	read := func() (err error) {
		n, oobn, flags, _, err = c.u.ReadMsgUnix(c.buf, room)
		return err
	}
	err = bounded(ctx, c.u.SetReadDeadline, read)
	if errors.Is(err, syscall.ECONNRESET) {
		// The peer closed without having read everything. The kernel tells that first, once; what the peer sent before,
		// as a rule why, comes after it.
		if err = bounded(ctx, c.u.SetReadDeadline, read); errors.Is(err, io.EOF) {
			err = syscall.ECONNRESET
		}
	}
	files, rightsErr := sys.ParseRights(room[:oobn])
	switch {
	case errors.Is(err, io.EOF):
		err = io.EOF // an empty packet looks the same, so it means the same
	case err != nil:
		err = hungUp("receive", err)
	case n > MaxPacket:
		err = ErrTooLarge
	case sys.RightsTruncated(flags):
		err = ErrTruncated
	case rightsErr != nil:
		err = rightsErr
	}
	if err != nil {
		closeAll(files)
		return nil, nil, err
	}
	return slices.Clone(c.buf[:n]), files, nil
}

// ReceiveRequest returns the next request. A request never carries descriptors: they are not taken, and it is refused. The peer decides how long the kernel
// takes to drop them (a socket may linger), and that long the call, and a Close beside it, do not return.
// Errors: those of Receive and of DecodeRequest; to the latter the server answers Refusal.
func (c *Conn) ReceiveRequest(ctx context.Context) (Request, error) {
	p, _, err := c.receive(ctx, nil)
	if errors.Is(err, ErrTruncated) {
		return Request{}, bad("a request carries no descriptors")
	}
	if err != nil {
		return Request{}, err
	}
	return DecodeRequest(p)
}

// SendReply sends a reply, r.FDs naming files in their order, in as many packets as it takes.
func (c *Conn) SendReply(ctx context.Context, r Reply, files []*os.File) error {
	if len(r.FDs) != len(files) {
		return bad("%d descriptors for %d names", len(files), len(r.FDs))
	}
	names, channels, plan := r.FDs, r.Channels, r.Plan
	for {
		n, m, k := min(len(names), MaxFiles), min(len(channels), MaxChannels), min(len(plan), MaxSteps)
		r.FDs, r.Channels, r.Plan = names[:n:n], channels[:m:m], plan[:k:k]
		now := files[:n]
		names, channels, plan, files = names[n:], channels[m:], plan[k:], files[n:]
		r.More = len(names) > 0 || len(channels) > 0 || len(plan) > 0
		p, err := r.Encode()
		if err != nil {
			return err
		}
		if err := c.Send(ctx, p, now); err != nil {
			return err
		}
		if !r.More {
			return nil
		}
		r = Reply{OK: r.OK, Pid: r.Pid, Version: r.Version, Region: r.Region, Attachment: r.Attachment}
	}
}

// Call makes a request that is answered without descriptors. Errors: those of Send, Receive (ErrHungUp for io.EOF),
// Encode and DecodeReply, and *RefusedError.
func (c *Conn) Call(ctx context.Context, r Request) (Reply, error) {
	reply, files, err := c.exchange(ctx, r)
	if err == nil && len(files) > 0 {
		err = bad("descriptors in answer to %q", r.Op)
	}
	closeAll(files)
	return reply, err
}

// Detach ends the attachment of this connection; the daemon gives back what it held.
func (c *Conn) Detach(ctx context.Context) error {
	_, err := c.Call(ctx, Request{Op: OpDetach})
	return err
}

// Channels asks which channels there are and what this process may do with them.
func (c *Conn) Channels(ctx context.Context) ([]Channel, error) {
	r, err := c.Call(ctx, Request{Op: OpChannels})
	return r.Channels, err
}

// Reload has the daemon read its configuration again, and apply what is new unless dry: the reply has the plan. *RefusedError with CodeConfig: the
// configuration is refused.
func (c *Conn) Reload(ctx context.Context, dry bool) (Reply, error) {
	return c.Call(ctx, Request{Op: OpReload, DryRun: dry})
}

// Upgrade has the program at an absolute path take the daemon's place, or, if binary is empty, what lies now where the daemon's own
// program lay. The reply comes from the new program. *RefusedError: the old one goes on. ErrHungUp: the daemon died in the middle; the
// next one adopts the region.
func (c *Conn) Upgrade(ctx context.Context, binary string) (Reply, error) {
	return c.Call(ctx, Request{Op: OpUpgrade, Binary: binary})
}

// Attached is what an attach brought.
type Attached struct {
	Reply                     // the packets put together: FDs and Channels of all
	Files map[string]*os.File // by the names in FDs; the caller's to close, or to hand on and delete from the map
}

// Close closes the files that are still in the map.
func (a *Attached) Close() error {
	var errs []error
	for _, f := range a.Files {
		errs = append(errs, f.Close())
	}
	clear(a.Files)
	return errors.Join(errs...)
}

// Attach asks for the region's segments; r.Op is set. Errors: those of Call. After an error no descriptor stays open.
func (c *Conn) Attach(ctx context.Context, r Request) (*Attached, error) {
	r.Op = OpAttach
	reply, files, err := c.exchange(ctx, r)
	if err != nil {
		closeAll(files)
		return nil, err
	}
	a := &Attached{Reply: reply, Files: make(map[string]*os.File, len(files))}
	for i, f := range files {
		a.Files[reply.FDs[i]] = f
	}
	return a, nil
}

// maxPackets bounds a reply: more segments than a roster could sensibly name.
const maxPackets = 64

// exchange makes a request and puts the packets of the reply together. The files are the caller's also on an error.
func (c *Conn) exchange(ctx context.Context, r Request) (all Reply, files []*os.File, err error) {
	p, err := r.Encode()
	if err != nil {
		return all, nil, err
	}
	c.call.Lock()
	defer c.call.Unlock()
	if err := c.Send(ctx, p, nil); err != nil {
		if errors.Is(err, ErrHungUp) { // perhaps it said why before it closed
			if p, files, rerr := c.Receive(ctx); rerr == nil {
				closeAll(files)
				if reply, rerr := DecodeReply(p); rerr == nil && reply.Err() != nil {
					return all, nil, reply.Err()
				}
			}
		}
		return all, nil, err
	}
	for n := 0; ; n++ {
		p, more, err := c.Receive(ctx)
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%s: %w before it answered", r.Op, ErrHungUp)
		}
		if err != nil {
			return all, files, err
		}
		files = append(files, more...)
		part, err := DecodeReply(p)
		if err != nil {
			return all, files, err
		}
		if err := part.Err(); err != nil {
			return all, files, err
		}
		if len(part.FDs) != len(more) {
			return all, files, bad("%d descriptors came with %d names", len(more), len(part.FDs))
		}
		if n == 0 {
			all = part
		} else {
			all.FDs = append(all.FDs, part.FDs...)
			all.Channels = append(all.Channels, part.Channels...)
			all.Plan = append(all.Plan, part.Plan...)
		}
		if !part.More {
			break
		}
		if n+1 == maxPackets {
			return all, files, bad("reply of more than %d packets", maxPackets)
		}
	}
	all.More = false
	seen := make(map[string]bool, len(all.FDs))
	for _, name := range all.FDs {
		if seen[name] {
			return all, files, bad("descriptor %q came twice", name)
		}
		seen[name] = true
	}
	return all, files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// hungUp gives the errors of a broken connection one name.
func hungUp(what string, err error) error {
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.ENOTCONN) {
		return fmt.Errorf("%s: %w", what, ErrHungUp)
	}
	return err
}

// bounded runs op, one read or write, until ctx ends; then it returns the context's error. The deadline that it sets is
// gone afterwards.
func bounded(ctx context.Context, setDeadline func(time.Time) error, op func() error) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = setDeadline(time.Unix(1, 0)) // long ago: ends the operation now; fails only if the connection is closed, which ends it too
	})
	err := op()
	if !stop() {
		<-interrupted
		if e := setDeadline(time.Time{}); err == nil && e != nil && !errors.Is(e, net.ErrClosed) {
			return e
		}
		if err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
			return context.Cause(ctx)
		}
	}
	return err
}
