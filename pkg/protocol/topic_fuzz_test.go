package protocol

import (
	"errors"
	"testing"
	"time"
)

// Whatever stands in the words of a topic: every operation returns, in bounded time, with a result or an error.
func FuzzTopicWords(f *testing.F) {
	f.Add(uint16(256+64), []byte{255, 255, 255, 255, 255, 255, 255, 127}, uint16(4096), []byte{0x13, 0, 0, 0, 1, 0, 0, 0, 255, 255, 255, 255}, uint8(0))
	f.Add(uint16(256+128), []byte{9, 0, 0, 0, 77}, uint16(1280), []byte{2, 0, 0, 0, 0, 0, 0, 0, 57, 0, 0, 0}, uint8(1))
	f.Add(uint16(256+192), []byte{255, 255, 255, 255, 255, 255, 255, 255}, uint16(4160), []byte{15}, uint8(2))
	f.Add(uint16(256+576), []byte{255, 255, 255, 255}, uint16(1288), []byte{255, 255, 255, 255, 255}, uint8(3))
	f.Add(uint16(256), []byte{255, 255}, uint16(272), []byte{255, 255, 255, 255, 255}, uint8(3))
	f.Add(uint16(1280+64), []byte{1, 0, 255, 255, 9, 0, 0, 0, 0x93, 0, 0x20}, uint16(1280), []byte{0x93, 0, 0x30, 0, 7, 0, 0, 0}, uint8(0))
	f.Add(uint16(1280+128), []byte{255, 255, 0, 128, 9, 0, 0, 0, 1, 1, 1}, uint16(1472+64), []byte{0x93, 0, 0x30, 0, 7, 0, 0, 0}, uint8(2))
	f.Fuzz(func(t *testing.T, at1 uint16, p1 []byte, at2 uint16, p2 []byte, sort uint8) {
		o := TopicOptions{Slots: 4, SlotSize: 48, Cursors: 3, Single: sort&1 != 0, DropOldest: sort&2 != 0}
		n, _ := TopicSize(o)
		b := heap(n)
		c, err := FormatTopic(b, header("news"), o)
		if err != nil {
			t.Fatal(err)
		}
		c.Admit(2)
		p, err := c.Publisher(2)
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.Subscribe(3, FromNew)
		if err != nil {
			t.Fatal(err)
		}
		corrupt(b, at1, p1)
		check := func(err error) {
			var damage *CorruptError
			if errors.As(err, &damage) && (damage.Offset < 0 || damage.Offset >= int64(len(b))) {
				t.Fatalf("damage outside of the segment: %v", damage)
			}
		}
		read := func(s *Subscriber) {
			for range 10 {
				m, err := s.Next()
				if err == nil {
					if len(m) > s.t.SlotSize() {
						t.Fatalf("a message of %d bytes", len(m))
					}
					err = s.Done()
				}
				check(err)
			}
			s.Flush()
		}
		use := func(c *Topic, p *Publisher, s *Subscriber) {
			for i := range 12 {
				check(p.TryPublish(make([]byte, i)))
				_, err := p.TryPublishBatch([][]byte{{1}, {2}, {3}})
				check(err)
				if l, err := p.TryLoan(); err == nil {
					if got := len(p.LoanBytes(l)); got != c.SlotSize() { // another size may be as good a geometry
						t.Fatalf("a loan of %d bytes", got)
					}
					if i%3 == 2 {
						p.Abort(l)
					} else {
						p.Commit(l, i)
					}
				} else {
					check(err)
				}
				read(s)
				if late, err := c.Subscribe(4, From(i%3)); err == nil {
					read(late)
					c.EvictStuck(c.Blocking())
					late.Close()
				}
				if i == 5 {
					corrupt(b, at2, p2)
				}
				c.Recall(uint64(i))
				for _, e := range c.Evictions() {
					if e.Count < 1 || e.Count > 1<<16 {
						t.Fatalf("%+v", e)
					}
					c.Telling(e, uint64(i))
					c.ToldOf(e)
				}
				c.Stat()
				c.Summary()
			}
			c.Evict(0)
			read(s)
			s.Close()
			c.Repair(func(o uint16) bool { return o != 0 })
		}
		begin := time.Now()
		use(c, p, s)
		if c, err := OpenTopic(b); err == nil {
			c.Admit(2)
			p, err := c.Publisher(2)
			if err != nil {
				t.Fatal(err)
			}
			if s, err := c.Subscribe(3, FromOldest); err == nil {
				use(c, p, s)
			}
		}
		if time.Since(begin) > 10*time.Second {
			t.Fatal("an operation took seconds")
		}
	})
}
