package daemon

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/config"
	"github.com/shmd/shmd/internal/supervise"
	"github.com/shmd/shmd/pkg/protocol"
)

// A worker that always ends soon is given up also by a group that says nothing about it: within a few minutes, whether it ends at once or after some seconds.
func TestDefaultsGiveUp(t *testing.T) {
	conf, err := config.Parse("test", []byte("[worker.a]\ncommand = [\"false\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, took := range []time.Duration{0, time.Second, supervise.Steady - time.Second, supervise.Steady + time.Second} {
		m := supervise.New(rand.New(rand.NewPCG(1, 2)))
		w := m.Add(m.AddGroup(policyOf(&conf.Groups[0])), "a.0")
		begin := time.Now()
		now := begin
		actions := m.Step(now, w, supervise.Desired{Run: true})
		var timer uint32
		for m.State(w) != protocol.StateFailed && now.Sub(begin) < time.Hour {
			next := supervise.Event(supervise.Due{Timer: timer})
			for _, a := range actions {
				switch a.Do {
				case supervise.Prepare:
					next = supervise.Prepared{}
				case supervise.Launch:
					next = supervise.Started{}
				case supervise.SetTimer:
					timer = a.Timer
					if m.State(w) == protocol.StateBackoff {
						now = now.Add(a.After)
						next = supervise.Due{Timer: timer}
					}
				}
			}
			if m.State(w) == protocol.StateReady || m.State(w) == protocol.StateStarting && len(actions) == 0 {
				now = now.Add(took)
				next = supervise.Exited{Desired: supervise.Desired{Run: true}, How: "exit code 1"}
			} else if _, due := next.(supervise.Due); due && m.State(w) == protocol.StateStarting {
				next = supervise.Running{}
			}
			actions = append([]supervise.Action(nil), m.Step(now, w, next)...)
		}
		if got := now.Sub(begin); m.State(w) != protocol.StateFailed || got > 10*time.Minute {
			t.Errorf("a worker that ends after %v each time is %v after %v, not given up", took, m.State(w), got)
		} else {
			t.Logf("ends after %v each time: given up after %v", took, got.Round(time.Second))
		}
	}
}
