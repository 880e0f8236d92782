package sys

import (
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The real-time signals as the C library counts them; it keeps two for itself.
const (
	sigRTMin = 34
	sigRTMax = 64
)

// SignalByName returns the signal that people call so: "HUP", "SIGHUP", "hup", "RTMIN+1", or a number from 1 to 64. False for none.
func SignalByName(name string) (syscall.Signal, bool) {
	if n, err := strconv.ParseUint(name, 10, 8); err == nil {
		return syscall.Signal(n), 0 < n && n <= sigRTMax
	}
	name = "SIG" + strings.TrimPrefix(strings.ToUpper(name), "SIG")
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, true
	}
	for _, end := range []struct {
		name string
		from int
		sign string
	}{{"SIGRTMIN", sigRTMin, "+"}, {"SIGRTMAX", sigRTMax, "-"}} {
		rest, ok := strings.CutPrefix(name, end.name)
		if !ok {
			continue
		}
		if rest == "" {
			return syscall.Signal(end.from), true
		}
		digits, ok := strings.CutPrefix(rest, end.sign)
		n, err := strconv.ParseUint(digits, 10, 8)
		if !ok || err != nil || n > sigRTMax-sigRTMin {
			return 0, false
		}
		if end.sign == "-" {
			return syscall.Signal(end.from - int(n)), true
		}
		return syscall.Signal(end.from + int(n)), true
	}
	return 0, false
}

// SignalName is the other way: "SIGHUP"; "SIGRTMIN+1" for a real-time signal, "signal 32" for one without a name.
func SignalName(sig syscall.Signal) string {
	if name := unix.SignalName(sig); name != "" {
		return name
	}
	switch {
	case sig == sigRTMin:
		return "SIGRTMIN"
	case sigRTMin < sig && sig <= sigRTMax:
		return "SIGRTMIN+" + strconv.Itoa(int(sig)-sigRTMin)
	}
	return "signal " + strconv.Itoa(int(sig))
}
