package daemon

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/shmd/shmd/pkg/protocol"
)

// moveDeadLetters moves the dead messages of one channel to its dead-letter channel whenever there are any, until ctx ends.
func (d *Daemon) moveDeadLetters(ctx context.Context, name string, c *channel) {
	move := func() error {
		n, err := c.queue.MoveDead(c.dead, daemonID)
		if n > 0 {
			d.log.Warn("messages were moved to the dead-letter channel", "channel", name, "to", name+deadSuffix, "messages", n)
			d.event(eventDeadLetter, name, "dead", "to", name+deadSuffix, "messages", n)
		}
		return err
	}
	sleep := func(word *atomic.Uint32, v uint32) bool { return d.hub.Wait(ctx, word, v) == nil }
	for {
		v := c.queue.Attention().Load()
		err := move()
		if !errors.Is(err, protocol.ErrFull) {
			if err != nil {
				d.log.Error("dead letters", "channel", name, "error", err)
			}
			if !sleep(c.queue.Attention(), v) {
				return
			}
			continue
		}
		d.log.Warn("the dead-letter channel is full: dead messages keep their slots until it is read", "channel", name+deadSuffix)
		for alive := true; errors.Is(err, protocol.ErrFull); {
			room := c.dead.Senders.Value()
			ticket := c.dead.Senders.Register()
			if err = move(); errors.Is(err, protocol.ErrFull) {
				alive = sleep(c.dead.Senders.Word(), room)
			}
			c.dead.Senders.Unregister(ticket)
			if !alive {
				return
			}
		}
	}
}
