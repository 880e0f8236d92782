package cli

import (
	"context"
	"os"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
)

// top ends without waiting for its look at the memory, in another goroutine: the end does. It unmapped what was being read, which was a crash now and then.
func TestEndOfTopWaitsForALook(t *testing.T) {
	d := testregion.Start(t, "[region]\nname = \"test\"\n[channel.jobs]\nslots = 1024\nslot_size = \"64B\"\n[worker.idle]\nbuiltin = \"idle\"\ncount = 8\n")
	for range 50 {
		w := &watched{a: &app{stdout: os.Stdout, stderr: os.Stderr, quiet: true, region: d.Name, socket: d.Socket}}
		if err := w.open(context.Background()); err != nil {
			t.Fatal(err)
		}
		looks, ended := make(chan bool, 1), make(chan bool)
		go func() {
			defer close(ended)
			for range 20 {
				w.sample()
				select {
				case looks <- true:
				default:
				}
			}
		}()
		<-looks
		w.close()
		<-ended
	}
}
