package crashpoint

// skipBreakpoint puts the tracee behind the breakpoint it stands at. INT3 did that by itself.
func skipBreakpoint(int) error { return nil }
