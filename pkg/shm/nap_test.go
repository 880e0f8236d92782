package shm_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/shm"
)

func init() { roles["napper"] = napper }

// napper is a program of one goroutine on one processor that calls. What the library runs beside it, to give back the slot that it keeps and to see the
// quit flag, must not keep it from napping.
func napper() error {
	runtime.GOMAXPROCS(1)
	ctx := context.Background() // who waits for what it says ends it
	r, err := shm.Attach(ctx, shm.Options{Socket: os.Getenv("SHM_TEST_SOCKET"), Produce: []string{"service"}})
	if err != nil {
		return err
	}
	defer r.Close()
	c, err := r.Call("service")
	if err != nil {
		return err
	}
	for runtime.NumGoroutine() < 4 || !r.Spare() { // until those goroutines sleep, one for each of the two tasks and one of the hub's, and what attaching took has ended
		if _, err := c.Do(ctx, []byte("again"), nil); err != nil {
			return err
		}
	}
	fmt.Println("spare")
	return nil
}

func TestCallerNaps(t *testing.T) {
	d := testregion.Start(t, callRegion(1))
	p := outsider(t, d, "napper")
	defer p.kill()
	p.said()
}
