package crashpoint

import (
	"testing"
	"time"
)

func TestZZ(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	b := time.Now()
	for range 50 {
		x.kill()
		x.start()
	}
	t.Log(time.Since(b)/50)
}
