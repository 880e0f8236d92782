package vm

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
	"testing"
)

// verdict begins the line that says how the tests ended.
const verdict = "test/vm: exit status "

// TestMain is all that this program can be: outside, who starts the machine; in it, init, the tests, who ends it, and a worker.
func TestMain(m *testing.M) {
	switch role := os.Getenv("SHMD_VM"); {
	case os.Getpid() == 1:
		fatal(becomeSystemd())
	case role == "tests":
		args, err := os.ReadFile("/args")
		if err == nil {
			err = prepare()
		}
		fatal(err)
		os.Args = append(os.Args[:1], strings.Split(string(args), "\x00")...)
		os.Exit(m.Run())
	case role == "end":
		fatal(end())
	case role != "":
		fatal(work(role))
	default:
		code, err := outside()
		fatal(err)
		os.Exit(code)
	}
}

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "test/vm:", err)
		os.Exit(1)
	}
}

// ---- outside

// outside runs the tests in the machine, with the arguments that this program got.
func outside() (code int, err error) {
	fetch := exec.Command("./fetch.sh", "amd64")
	fetch.Stderr = os.Stderr
	debian, err := fetch.Output()
	if err != nil {
		return 1, fmt.Errorf("no kernel to boot: fetch.sh: %w", err)
	}
	if runtime.GOARCH != "amd64" {
		return 1, errors.New("this test is for amd64: it runs the programs of this machine in the virtual one")
	}
	var args []string
	for _, a := range os.Args[1:] {
		if !strings.HasPrefix(a, "-test.testlogfile") && !strings.HasPrefix(a, "-test.outputdir") { // paths out here
			args = append(args, a)
		}
	}
	root, err := makeImage(args)
	if err != nil {
		return 1, err
	}
	dir, err := os.MkdirTemp("", "shmd-vm.")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	initrd, console := filepath.Join(dir, "initrd"), filepath.Join(dir, "console")
	if err := os.WriteFile(initrd, root, 0o600); err != nil {
		return 1, err
	}
	// The processor is emulated: /dev/kvm may be there and not do (nested, it can fail at single instructions), and this is fast enough without.
	runtime.LockOSThread() // for Pdeathsig: go test kills us when the time is up
	qemu := exec.Command("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max,la57=off", "-smp", "2", "-m", "1024",
		"-nodefaults", "-no-user-config", "-display", "none", "-nic", "none", "-no-reboot",
		"-serial", "file:"+console, "-serial", "stdio",
		"-kernel", filepath.Join(strings.TrimSpace(string(debian)), "vmlinuz"), "-initrd", initrd,
		"-append", "console=ttyS0 quiet panic=-1 systemd.unit=tests.service systemd.unified_cgroup_hierarchy=1 systemd.mask=systemd-journald-audit.socket")
	qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	qemu.Stderr = os.Stderr
	out, err := qemu.StdoutPipe()
	if err != nil {
		return 1, err
	}
	if err := qemu.Start(); err != nil {
		return 1, fmt.Errorf("%w; scripts/deps.sh installs what the tests need", err)
	}
	code = -1
	in := bufio.NewReader(out)
	for {
		line, err := in.ReadBytes('\n')
		line = bytes.ReplaceAll(line, []byte("\r\n"), []byte("\n"))
		if text, ok := bytes.CutPrefix(line, []byte(verdict)); ok {
			if n, err := strconv.Atoi(string(bytes.TrimSpace(text))); err == nil {
				code = n
				break
			}
		}
		os.Stdout.Write(line)
		if err != nil {
			break
		}
	}
	qemu.Process.Kill()
	qemu.Wait()
	if code < 0 {
		text, _ := os.ReadFile(console)
		return 1, fmt.Errorf("the machine ended before the tests did. Its console:\n%s", text)
	}
	return code, nil
}

// ---- inside

// becomeSystemd is init: it moves the root out of the initramfs, as what a sandbox of systemd pivots must be a mount of its own, and becomes systemd.
func becomeSystemd() error {
	const root = "/root/new"
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("root", root, "tmpfs", 0, "mode=0755,size=100%"); err != nil {
		return fmt.Errorf("mount a tmpfs: %w", err)
	}
	if err := copyTo(root); err != nil {
		return err
	}
	if err := os.Chmod(root+"/tmp", 0o777|os.ModeSticky); err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return syscall.Mount("dev", root+"/dev", "devtmpfs", 0, "") },
		func() error { return os.Chdir(root) },
		func() error { return syscall.Mount(".", "/", "", syscall.MS_MOVE, "") },
		func() error { return syscall.Chroot(".") },
		func() error { return os.Chdir("/") },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("change the root: %w", err)
		}
	}
	return syscall.Exec("/lib/systemd/systemd", []string{"systemd"}, []string{"PATH=/usr/bin:/usr/sbin", "TERM=dumb", "LANG=C.UTF-8"})
}

// copyTo copies all that is in the initramfs.
func copyTo(root string) error {
	return filepath.WalkDir("/", func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == "/" {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		to := root + path
		switch {
		case path == root:
			return fs.SkipDir
		case d.IsDir():
			return os.Mkdir(to, info.Mode().Perm())
		case d.Type() == fs.ModeSymlink:
			where, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(where, to)
		case d.Type().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(to, data, info.Mode().Perm())
		}
		return nil // a device
	})
}

// end says how the tests ended, and ends the machine.
func end() error {
	status := os.Getenv("EXIT_STATUS") // of the unit's ExecStart=: systemd.exec(5)
	if _, err := strconv.Atoi(status); err != nil {
		fmt.Printf("\ntest/vm: the tests were ended: %s %s %s\n", os.Getenv("SERVICE_RESULT"), os.Getenv("EXIT_CODE"), status)
		status = "1"
	}
	fmt.Printf("\n%s%s\n", verdict, status)
	return drained()
}

// drained waits until the serial line has sent what was written to it. The machine is ended from outside.
func drained() error {
	const tcsbrk = 0x5409
	if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, os.Stdout.Fd(), tcsbrk, 1); e != 0 && !errors.Is(e, syscall.ENOTTY) {
		return e
	}
	return nil
}
