package cli

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Each wrong input has its exit code and an error that says what to do; standard output stays empty.
func TestBadInput(t *testing.T) {
	if err := build(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	golden := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join("../../pkg/protocol/testdata/golden", name+".bin"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	damaged := func(name string, offset int, b ...byte) string {
		s := golden(name)
		copy(s[offset:], b)
		return write(strings.ReplaceAll(t.Name(), "/", "-")+name, s)
	}
	pipe := filepath.Join(dir, "pipe") // that nobody writes into
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	long := filepath.Join(dir, strings.Repeat("x", 120), "default.sock")

	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"", ExitUsage, "shmctl: which verb?"},
		{"nothing", ExitUsage, `unknown verb "shmctl nothing"`},
		{"statsu", ExitUsage, `did you mean "shmctl status"?`},
		{"--nothing", ExitUsage, "unknown flag: --nothing"},
		{"status extra", ExitUsage, `shmctl status takes no argument, and got "extra"`},
		{"status -o yaml", ExitUsage, `output format "yaml": there are table and json (and short and cat, for logs)`},
		{"ps -o short", ExitUsage, "output format short is for logs"},
		{"ps --timeout=soon", ExitUsage, `shmctl: --timeout: "soon" is not a duration; write a number and ms, s, m or h`},
		{"ps --timeout=5", ExitUsage, `--timeout: "5" has no unit; did you mean "5s"?`},
		{"ps --timeout=999999h99", ExitUsage, `"999999h99" has no unit; did you mean "999999h99s"?`},
		{"ps --timeout=300000000h", ExitUsage, `--timeout: "300000000h" is too long; a duration has at most 2562047h, 292 years`},
		{"watch --timeout=300000000h c", ExitUsage, `--timeout: "300000000h" is too long`},
		{"stat --watch=99999999999999999999ms", ExitUsage, `--watch: "99999999999999999999ms" is too long`},
		{"top --interval=1hour", ExitUsage, `--interval: "1hour" is not a duration`},
		{"put --if-version -1 c v", ExitUsage, "shmctl: --if-version -1: give a whole number, 0 or more\n"},
		{"put --if-version x c v", ExitUsage, "shmctl: --if-version x: give a whole number, 0 or more\n"},
		{"put --if-version 99999999999999999999 c v", ExitUsage, "--if-version 99999999999999999999: this is more than a number of 64 bits; give a whole number, 0 or more\n"},
		{"sub -n 99999999999999999999 c", ExitUsage, "-n, --number 99999999999999999999: this is more than a number of 64 bits"},
		{"pub --count 1.5 c", ExitUsage, "--count 1.5: give a whole number\n"},
		{"pub --rate fast c", ExitUsage, "--rate fast: give a number\n"},
		{"pub --rate 1e999 c", ExitUsage, "--rate 1e999: this is more than a number of 64 bits; give a number"},
		{"inspect --rows=all", ExitUsage, "--rows all: give a whole number\n"},
		{"restart --max-unavailable=x a", ExitUsage, "--max-unavailable x: give a whole number\n"},
		{"ps --all=x", ExitUsage, "-a, --all x: give true or false, or the flag alone\n"},
		{"kill -s LOUD a", ExitUsage, "no signal is called so"},
		{"sub --wait=long c", ExitUsage, "there are adaptive, block and spin"},
		{"bench --size 0", ExitUsage, "--size 0: give a whole number and its unit, 1B to 64MiB\n"},
		{"bench --size 0B", ExitUsage, "--size 0B: give 1B to 64MiB\n"},
		{"bench --size 64", ExitUsage, "--size 64: give a whole number and its unit, 1B to 64MiB\n"},
		{"ps -r", ExitUsage, "flag needs an argument"},
		{"stop ''", ExitUsage, "an empty name is neither a worker nor a group"},
		{"restart", ExitUsage, "which workers? Give names, or --all for every one"},
		{"restart --all x", ExitUsage, "give names or --all, not both"},
		{"wait --for=done", ExitUsage, "--for=done: there are ready and exited"},
		{"logs -n x", ExitUsage, "-n x: give the number of records, 0 or more, or all"},
		{"logs -n -2", ExitUsage, "give the number of records, 0 or more"},
		{"logs -n -1", ExitUsage, "give the number of records, 0 or more"},
		{"logs -p loud", ExitUsage, "-p loud: there are emerg, alert, crit, err"},
		{"logs -g (", ExitUsage, "-g: error parsing regexp"},
		{"logs -S someday", ExitUsage, `-S: "someday" is no point in time`},
		{"events -U 3parsecs", ExitUsage, `-U: "3parsecs" is no point in time`},
		{"events -S -999999h999999h", ExitUsage, `-S: "999999h999999h" is too long: 146 years are the most`},
		{"events -S -3parsecs", ExitUsage, `-S: "parsecs" is no unit of time`},
		{"events -o cat", ExitUsage, "output format cat is for logs"},
		{"ch", ExitUsage, "shmctl ch: which verb?"},
		{"ch info", ExitUsage, "which channel? Give one name; shmctl ch ls lists them"},
		{"ch info a b", ExitUsage, "which channel?"},
		{"ch ls a", ExitUsage, "takes no argument"},
		{"inspect --rows=-1", ExitUsage, "--rows=-1: give the most rows"},
		{"inspect --hex -o json", ExitUsage, "leave out -o json, or --hex"},
		{"inspect --file=a b", ExitUsage, "give names of segments or --file, not both"},
		{"doctor x", ExitUsage, "takes no argument"},
		{"version x", ExitUsage, "takes no argument"},
		{"completion", ExitUsage, "which shell? There are bash, zsh, fish, powershell"},
		{"completion tcsh", ExitUsage, "which shell?"},
		{"help nothing", ExitUsage, `there is no verb "nothing"`},

		{"-r no-such-region status", ExitNoRegion, "no daemon: there is no socket: start one"},
		{"-r no-such-region stop", ExitNoRegion, "no living process of the region"},
		{"-r no-such-region start", ExitNoRegion, "no living process of the region"},
		{"-r no-such-region logs", ExitNoRegion, "no living process of the region"},
		{"-r no-such-region inspect", ExitNoRegion, "no living process of the region"},
		{"-r no-such-region ch ls", ExitNoRegion, "no living process of the region"},
		{"-r no-such-region wait --for=exited", ExitNoRegion, "no living process of the region"},
		{"-r no-such-region wait --timeout=30ms", ExitTimeout, "timeout after 30ms"},
		{"-s " + long + " status", ExitFailed, "the path of a socket has at most 107 bytes, this one has"},
		{"-r no-such-region -s " + write("file.sock", nil) + " status", ExitFailed, "it is no socket at all"},

		{"inspect --file=" + filepath.Join(dir, "nothing"), ExitFailed, "no such file or directory"},
		{"inspect --file=/dev/null", ExitFailed, "neither a file nor shared memory"},
		{"inspect --file=" + pipe, ExitFailed, "neither a file nor shared memory"},
		{"inspect --file=" + write("empty", nil), ExitFailed, "empty is no segment of shmd, which begins with the bytes SHMDSEG1; --file takes a copy of one, or /proc/PID/fd/N of a process that holds one\n"},
		{"inspect --file=" + write("short", golden("queue")[:255]), ExitFailed, "short is the beginning of a segment of shmd: 255 bytes, the header alone has 256"},
		{"inspect --file=" + write("zero", make([]byte, 4096)), ExitFailed, "zero is no segment of shmd, or one that is still being made: it begins with zeros"},
		{"inspect --file=" + write("text", []byte(strings.Repeat("text\n", 1000))), ExitFailed, "text is no segment of shmd"},
		{"inspect --hex --file=" + filepath.Join(bin, "shmctl"), ExitFailed, "shmctl is no segment of shmd"},
		{"inspect -o json --file=" + damaged("queue", 0, 'X'), ExitFailed, "is no segment of shmd"},
		{"inspect --file=" + write("packed", []byte("\x28\xb5\x2f\xfd")), ExitFailed, "packed looks like a dump, which goes without --file: shmctl inspect "},
		{"verify " + pipe, ExitFailed, "not a dump of shmd"},
		{"inspect --file=" + damaged("roster", 8, 9), ExitFailed, "has layout version 9."},
		{"inspect --file=" + damaged("command", 36, 99), ExitFailed, "kind(99) is no kind of segment that this program knows"},
		{"inspect --hex --file=" + damaged("log", 0x108, 3), ExitFailed, ""},
		{"inspect --file=" + write("cut", golden("log")[:4096]), ExitFailed, "damaged at offset"},
	} {
		t.Run(c.args, func(t *testing.T) {
			args := strings.Fields(c.args)
			for i, a := range args {
				args[i] = strings.Trim(a, "'")
			}
			cmd := exec.Command(filepath.Join(bin, "shmctl"), args...)
			cmd.Env = append(os.Environ(), "RUNTIME_DIRECTORY="+dir, "SHMCTL_REGION=")
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			err := cmd.Run()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if c.says == "" { // only: no crash
				return
			}
			if got := cmd.ProcessState.ExitCode(); got != c.code {
				t.Errorf("exit code %d, not %d", got, c.code)
			}
			if !strings.Contains(stderr.String(), c.says) {
				t.Errorf("standard error is %q, without %q", stderr.String(), c.says)
			}
			if c.code == ExitUsage && !strings.Contains(stderr.String(), `--help".`) {
				t.Errorf("standard error is %q, and does not point to --help", stderr.String())
			}
			if stdout.Len() > 0 && (!strings.HasPrefix(c.args, "inspect") || strings.Contains(c.says, "of shmd")) { // of a damaged segment the rest is printed
				t.Errorf("standard output is %q", stdout.String())
			}
		})
	}
}
