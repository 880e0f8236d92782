package protocol

import (
	"errors"
	"testing"
	"time"
)

// FuzzCallWords damages the shared words of a call channel before and while callers and servers work: nothing panics, reads out of bounds or runs
// for ever, and damage is told with a place in the segment.
func FuzzCallWords(f *testing.F) {
	f.Add(uint16(256+64), []byte{255, 255, 255, 255, 255, 255, 255, 127}, uint16(4096), []byte{0x23, 0, 0, 0, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255})
	f.Add(uint16(256+64), []byte{0}, uint16(4096), []byte{0x22, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 49})
	f.Add(uint16(4096+192), []byte{0x32, 0, 0x20, 0, 0, 0, 0, 0}, uint16(4096+16), []byte{1, 0, 0, 0, 49})
	f.Add(uint16(256+192), []byte{255, 255, 255, 255, 255, 255, 255, 255}, uint16(4096), []byte{15})
	f.Fuzz(func(t *testing.T, at1 uint16, p1 []byte, at2 uint16, p2 []byte) {
		o := CallOptions{Slots: 4, SlotSize: 48, MaxDeliveries: 2}
		n, _ := CallSize(o)
		b := heap(n)
		c, err := FormatCall(b, header("service"), o)
		if err != nil {
			t.Fatal(err)
		}
		corrupt(b, at1, p1)
		place := func(err error) {
			var e *CorruptError
			if errors.As(err, &e) && (e.Offset < 0 || e.Offset >= int64(len(b))) {
				t.Fatalf("damage outside of the segment: %v", e)
			}
		}
		use := func(c *Call) {
			for i := range 12 {
				q, err := c.TryRequest(2, uint64(i))
				place(err)
				if err == nil {
					if got := len(c.RequestRoom(q)); got != 48 {
						t.Fatalf("room of %d bytes for a request", got)
					}
					c.Send(&q, 4*i)
				}
				v, accepted := c.TryAccept(3, uint64(i))
				place(accepted)
				if accepted == nil {
					if got := len(c.RequestBytes(v)); got > 48 {
						t.Fatalf("a request of %d bytes", got)
					}
					if got := len(c.AnswerRoom(v)); got != 48 {
						t.Fatalf("room of %d bytes for an answer", got)
					}
				}
				if i%4 == 3 {
					corrupt(b, at2, p2)
				}
				if accepted == nil {
					if i%3 == 1 {
						c.GiveBack(v)
					} else {
						c.Answer(v, 48-i, int32(i%2))
					}
				}
				if err == nil {
					c.Doze(&q)
					if settled, _ := c.Settled(&q); settled {
						p, _, err := c.Reply(q)
						place(err)
						if len(p) > 48 {
							t.Fatalf("a reply of %d bytes", len(p))
						}
					}
					c.Leave(&q)
				}
				c.Summary()
			}
			c.Repair(func(o uint16) bool { return o != 0 })
			ticket := c.Servers.Register()
			c.Servers.Ring(1)
			c.Servers.Unregister(ticket)
			c.Want()
		}
		begin := time.Now()
		use(c)
		if c, err := OpenCall(b); err == nil && c.SlotSize() == 48 {
			use(c)
		} else if err != nil {
			place(err)
		}
		if d := time.Since(begin); d > 20*time.Second {
			t.Fatalf("it took %v", d)
		}
	})
}
