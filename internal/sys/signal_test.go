package sys

import (
	"syscall"
	"testing"
)

func TestSignalNames(t *testing.T) {
	for name, want := range map[string]syscall.Signal{
		"HUP": syscall.SIGHUP, "SIGHUP": syscall.SIGHUP, "sighup": syscall.SIGHUP, "usr1": syscall.SIGUSR1, "9": syscall.SIGKILL, "64": 64,
		"RTMIN": 34, "SIGRTMIN+2": 36, "rtmax": 64, "RTMAX-30": 34,
		"": 0, "0": 0, "65": 0, "-1": 0, "HUPP": 0, "SIG": 0, "RTMIN+31": 0, "RTMIN-1": 0, "RTMAX+0": 0, "/run/shmd/x.sock": 0,
	} {
		sig, ok := SignalByName(name)
		if ok != (want != 0) || ok && sig != want {
			t.Errorf("%q: %d, %v", name, sig, ok)
		}
		if ok {
			if again, ok := SignalByName(SignalName(sig)); !ok || again != sig {
				t.Errorf("%q: %d is called %q, and that is %d", name, sig, SignalName(sig), again)
			}
		}
	}
}
