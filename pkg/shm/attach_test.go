package shm_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/attach"
	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/shm"
)

// pretend is a daemon that answers a ping, gives an attach to serve, and tells what it is asked next.
func pretend(t *testing.T, serve func(*attach.Conn)) (socket string, next <-chan string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: socket, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan string, 1)
	go func() {
		defer close(asked)
		u, err := l.AcceptUnix()
		if err != nil {
			return
		}
		c := attach.NewConn(u)
		defer c.Close()
		ctx, cancel := context.WithTimeout(context.Background(), testregion.Limit)
		defer cancel()
		if _, err := c.ReceiveRequest(ctx); err != nil {
			return
		}
		c.SendReply(ctx, attach.Reply{OK: true, Pid: os.Getpid(), Region: "test"}, nil)
		if _, err := c.ReceiveRequest(ctx); err != nil {
			return
		}
		serve(c)
		r, err := c.ReceiveRequest(ctx)
		if err != nil {
			r.Op = err.Error()
		}
		asked <- string(r.Op)
	}()
	t.Cleanup(func() {
		l.Close()
		for range asked {
		}
	})
	return socket, asked
}

// TestAttachFailsHalfWay: a process that goes on living must not keep an attachment, with its channels, that it cannot use: its end is what the daemon waits for.
func TestAttachFailsHalfWay(t *testing.T) {
	notes, err := os.Create(filepath.Join(t.TempDir(), "notes"))
	if err != nil {
		t.Fatal(err)
	}
	defer notes.Close()
	answer := func(c *attach.Conn) {
		c.SendReply(t.Context(), attach.Reply{OK: true, Pid: os.Getpid(), Region: "test", Attachment: 7, FDs: []string{"roster"}}, []*os.File{notes})
	}
	t.Run("no segment", func(t *testing.T) {
		socket, next := pretend(t, answer)
		if _, err := shm.Attach(within(t), shm.Options{Socket: socket}); err == nil {
			t.Fatal("attached")
		}
		if op := <-next; op != string(attach.OpDetach) {
			t.Errorf("the daemon is told %q", op)
		}
	})
	t.Run("given up", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		socket, next := pretend(t, func(c *attach.Conn) { cancel() })
		if _, err := shm.Attach(ctx, shm.Options{Socket: socket}); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if op := <-next; op != string(attach.OpDetach) {
			t.Errorf("the daemon is told %q", op)
		}
	})
	t.Run("silent", func(t *testing.T) {
		shm.SetPatience(t, 100*time.Millisecond)
		socket, _ := pretend(t, func(*attach.Conn) {})
		if _, err := shm.Attach(within(t), shm.Options{Socket: socket}); !errors.Is(err, shm.ErrSilent) {
			t.Fatal(err)
		}
	})
}
