package crashpoint

import "golang.org/x/sys/unix"

// skipBreakpoint puts the tracee behind the BRK instruction it stands at.
func skipBreakpoint(pid int) error {
	const prstatus = 1
	var regs unix.PtraceRegsArm64
	if err := unix.PtraceGetRegSetArm64(pid, prstatus, &regs); err != nil {
		return err
	}
	regs.Pc += 4
	return unix.PtraceSetRegSetArm64(pid, prstatus, &regs)
}
