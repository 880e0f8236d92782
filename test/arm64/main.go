// Command arm64 runs a test program of arm64 in a virtual machine: `go test -exec`. The processor is emulated, the kernel is a real one.
//
//	go build -o DIR/arm64 ./test/arm64
//	export GOARCH=arm64 CGO_ENABLED=0
//	go build -o DIR/arm64.init ./test/arm64 && go build -o DIR/ ./cmd/shmd ./cmd/shmctl
//	go test -exec "DIR/arm64 $(test/vm/fetch.sh arm64)" ./pkg/protocol
//
// The program runs as root, in a copy of the directory that it is started in, with its arguments, and with the
// variables of the environment that begin with GO or SHMD_. Its exit status is this one's; what it writes goes to standard output.
//
// The same source is both sides: built for this machine it boots qemu, as process 1 of the virtual one it is init.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/shmd/shmd/test/vm/cpio"
)

// verdict begins the line that says how the program ended.
const (
	begin   = "test/arm64: begins"
	verdict = "test/arm64: exit status "
)

func main() {
	run := outside
	if os.Getpid() == 1 {
		run = inside
	}
	code, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "test/arm64:", err)
		code = 1
	}
	os.Exit(code)
}

// ---- outside

func outside() (int, error) {
	if len(os.Args) < 3 {
		return 1, errors.New("usage: arm64 DIRECTORY PROGRAM [ARGUMENT...]")
	}
	debian := os.Args[1] // as fetch.sh makes it
	image, err := pack(debian, os.Args[2], os.Args[3:])
	if err != nil {
		return 1, err
	}
	dir, err := os.MkdirTemp("", "shmd-arm64.")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	initrd := filepath.Join(dir, "initrd")
	if err := os.WriteFile(initrd, image, 0o600); err != nil {
		return 1, err
	}
	runtime.LockOSThread() // for Pdeathsig: go test kills us when the time is up
	qemu := exec.Command("qemu-system-aarch64", "-machine", "virt", "-accel", "tcg,thread=multi", "-cpu", "max,pauth=off", "-smp", "2", "-m", "1024",
		"-nodefaults", "-no-user-config", "-display", "none", "-nic", "none", "-no-reboot", "-serial", "stdio",
		"-kernel", filepath.Join(debian, "vmlinuz"), "-initrd", initrd, "-append", "console=ttyAMA0 quiet panic=-1 rdinit=/init")
	qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	qemu.Stderr = os.Stderr
	out, err := qemu.StdoutPipe()
	if err != nil {
		return 1, err
	}
	if err := qemu.Start(); err != nil {
		return 1, fmt.Errorf("%w; scripts/deps.sh installs what the tests need", err)
	}
	code := relay(bufio.NewReader(out))
	qemu.Process.Kill()
	qemu.Wait()
	if code < 0 {
		return 1, errors.New("the machine ended before the program did")
	}
	return code, nil
}

// relay copies what the program writes, and returns its exit status; -1: the machine ended, and what the kernel said of that was copied.
func relay(in *bufio.Reader) (code int) {
	var early []byte // what was there before the program
	begun := false
	for {
		line, err := in.ReadBytes('\n')
		line = bytes.ReplaceAll(line, []byte("\r\n"), []byte("\n"))
		text, over := bytes.CutPrefix(line, []byte(verdict))
		switch {
		case over:
			if n, err := strconv.Atoi(string(bytes.TrimSpace(text))); err == nil {
				return n
			}
		case begun:
			os.Stdout.Write(line)
		case bytes.HasPrefix(line, []byte(begin)):
			begun = true
		default:
			early = append(early, line...)
		}
		if err != nil {
			if !begun {
				os.Stderr.Write(early)
			}
			return -1
		}
	}
}

// pack makes the root of the machine: init, a shell and what goes with it, the program, and the directory that this was started in, at its own place.
func pack(debian, program string, args []string) ([]byte, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var m cpio.Image
	copyFile := func(from, to string, perm uint32) error {
		data, err := os.ReadFile(from)
		if err == nil {
			m.File(to, perm, data)
		}
		return err
	}
	if err := errors.Join(copyFile(self+".init", "/init", 0o755), copyFile(filepath.Join(debian, "busybox"), "/bin/busybox", 0o755), copyFile(program, "/program", 0o755)); err != nil {
		return nil, err
	}
	for _, name := range []string{"shmd", "shmctl"} { // for tests that start a region: internal/testregion
		if err := copyFile(filepath.Join(filepath.Dir(self), name), "/built/"+name, 0o755); err != nil {
			return nil, err
		}
	}
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return copyFile(path, path, uint32(info.Mode().Perm()))
	})
	if err != nil {
		return nil, err
	}
	for _, d := range []string{"/proc", "/sys", "/dev", "/tmp", "/run", "/var/tmp"} {
		m.Dir(d)
	}
	m.Device("/dev/console", 5, 1)
	m.File("/etc/passwd", 0o644, []byte("root:x:0:0:root:/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"))
	m.File("/etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n"))
	command := append([]string{dir, "/program"}, args...)
	m.File("/command", 0o644, []byte(strings.Join(command, "\x00")))
	env := []string{"PATH=/bin", "HOME=/tmp", "TMPDIR=/tmp", "SHMD_TEST_BIN=/built"}
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "SHMD_") || name == "GODEBUG" || name == "GOMAXPROCS" {
			env = append(env, kv)
		}
	}
	m.File("/environment", 0o644, []byte(strings.Join(env, "\x00")))
	return m.Bytes(), nil
}

// ---- inside

func inside() (int, error) {
	for _, m := range []struct{ kind, where string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"cgroup2", "/sys/fs/cgroup"}, {"devtmpfs", "/dev"}, {"tmpfs", "/dev/shm"}} {
		if err := os.MkdirAll(m.where, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return 1, err
		}
		if err := syscall.Mount(m.kind, m.where, m.kind, 0, ""); err != nil {
			return 1, fmt.Errorf("mount %s on %s: %w", m.kind, m.where, err)
		}
	}
	if err := os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+memory +cpu +pids"), 0); err != nil {
		return 1, err
	}
	if out, err := exec.Command("/bin/busybox", "--install", "-s", "/bin").CombinedOutput(); err != nil {
		return 1, fmt.Errorf("busybox --install: %w\n%s", err, out)
	}
	read := func(path string) []string {
		b, err := os.ReadFile(path)
		if err != nil {
			fmt.Println(err)
		}
		return strings.Split(string(b), "\x00")
	}
	command := read("/command")
	fmt.Println(begin)
	cmd := exec.Command(command[1], command[2:]...)
	cmd.Dir, cmd.Env = command[0], read("/environment")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	err := cmd.Run()
	code := 1
	if cmd.ProcessState != nil && cmd.ProcessState.Exited() {
		code = cmd.ProcessState.ExitCode()
	} else if err != nil {
		fmt.Println(err)
	}
	fmt.Printf("\n%s%d\n", verdict, code)
	select {} // the machine is ended from outside
}
