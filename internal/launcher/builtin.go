package launcher

import (
	"context"
	"errors"
	"fmt"

	"github.com/shmd/shmd/internal/launcher/spec"
	"github.com/shmd/shmd/internal/wordcount"
	"github.com/shmd/shmd/pkg/shm"
)

// builtin attaches and serves one of the built-in workers until it is asked to quit.
func builtin(s spec.Spec) error {
	ctx := context.Background()
	r, err := shm.Attach(ctx, shm.Options{})
	if err != nil {
		return err
	}
	defer r.Close()
	var in, out *shm.Queue
	if len(s.Consume) > 0 {
		if in, err = r.Queue(s.Consume[0]); err != nil {
			return err
		}
	}
	if len(s.Produce) > 0 {
		if out, err = r.Queue(s.Produce[0]); err != nil {
			return err
		}
	}
	if err := r.Ready(); err != nil {
		return err
	}
	switch s.Builtin {
	case "idle":
		err = r.WaitQuit(ctx)
	case "echo":
		err = echo(ctx, r, in, out)
	case "wordcount":
		err = wordcount.Work(ctx, r, in, out)
	default:
		err = fmt.Errorf("there is no built-in worker %q", s.Builtin)
	}
	if errors.Is(err, shm.ErrQuit) {
		return nil
	}
	return err
}

// echo moves one queue to another. The copy is committed before the input is acked, so a death between may duplicate a
// message and never loses one.
func echo(ctx context.Context, r *shm.Region, in, out *shm.Queue) error {
	moved, err := r.Counter("moved", "messages", "messages moved from one queue to the other")
	if err != nil {
		return err
	}
	for {
		m, err := in.Receive(ctx)
		if err != nil {
			return err
		}
		if err := out.Send(ctx, m.Bytes()); err != nil {
			m.Nack()
			return err
		}
		moved.Inc()
		if err := m.Ack(); err != nil {
			return err
		}
	}
}
