package protocol

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
)

// BenchmarkTopic is one publisher, beside subscribers in goroutines; 64 bytes, one at a time or in batches of 64.
func BenchmarkTopic(b *testing.B) {
	for _, subs := range []int{0, 1, 4} {
		for _, batch := range []int{1, 64} {
			b.Run(fmt.Sprintf("subscribers=%d/batch=%d", subs, batch), func(b *testing.B) {
				c := newTopic(b, TopicOptions{Slots: 4096, SlotSize: 64, Cursors: 4, Single: true, Fenced: true})
				p := newPublisher(b, c, 2)
				var wg sync.WaitGroup
				n := b.N/batch*batch + batch
				for range subs {
					s := subscribe(b, c, 3, FromNew)
					wg.Go(func() {
						buf := make([]byte, 0, 64)
						for got := 0; got < n; {
							m, err := s.Next()
							if errors.Is(err, ErrEmpty) {
								runtime.Gosched()
								continue
							}
							buf = append(buf[:0], m...)
							if err != nil || s.Done() != nil {
								b.Error(err)
								return
							}
							if got++; got%batch == 0 {
								s.Flush()
							}
						}
					})
				}
				msg := make([]byte, 64)
				msgs := make([][]byte, batch)
				for i := range msgs {
					msgs[i] = msg
				}
				b.ResetTimer()
				for sent := 0; sent < n; {
					k := 1
					var err error
					if batch == 1 {
						err = p.TryPublish(msg)
					} else {
						k, err = p.TryPublishBatch(msgs[:min(batch, n-sent)])
					}
					if errors.Is(err, ErrFull) {
						runtime.Gosched()
						continue
					}
					if err != nil {
						b.Fatal(err)
					}
					sent += k
				}
				wg.Wait()
			})
		}
	}
}
