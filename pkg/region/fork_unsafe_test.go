package region

import (
	"runtime"
	"syscall"
	"unsafe"
)

// forkChild forks this process the bare way, as a library in a C worker might. The child has a copy of
// the memory and no Go runtime, so it makes system calls only: it has the kernel read the byte at addr
// into the pipe w, and exits with the errno: 0, or EFAULT if addr is not in its memory.
//
//go:norace
//go:nosplit
//go:noinline
func forkChild(w, addr uintptr) (pid uintptr, e syscall.Errno) {
	pid, _, e = syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if e != 0 || pid != 0 {
		return pid, e
	}
	_, _, e = syscall.RawSyscall(syscall.SYS_WRITE, w, addr, 1)
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, uintptr(e), 0, 0)
	}
}

// forkAndTouch returns what a forked child got when it touched the first byte of b.
func forkAndTouch(b []byte) (syscall.Errno, error) {
	var p [2]int
	if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
		return 0, err
	}
	defer syscall.Close(p[0])
	defer syscall.Close(p[1])
	syscall.ForkLock.Lock()
	pid, e := forkChild(uintptr(p[1]), uintptr(unsafe.Pointer(&b[0])))
	syscall.ForkLock.Unlock()
	if e != 0 {
		return 0, e
	}
	var ws syscall.WaitStatus
	for {
		_, err := syscall.Wait4(int(pid), &ws, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		runtime.KeepAlive(b)
		return syscall.Errno(ws.ExitStatus()), err
	}
}
