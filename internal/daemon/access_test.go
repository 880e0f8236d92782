package daemon_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/attach"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// answer is what a client got.
type answer struct {
	Err      string            // of the connection or the attach, "" for none
	Files    map[string]string // by name: "r", "rw", or "reopened" for one that could be opened for writing after all
	Channels map[string]string // what the daemon says may be done: "p", "c", "pc", ""
}

// client is a role: it makes the requests of DAEMON_TEST_REQUESTS and prints an answer to each, in JSON.
func client() error {
	var requests []attach.Request
	if err := json.Unmarshal([]byte(os.Getenv("DAEMON_TEST_REQUESTS")), &requests); err != nil {
		return err
	}
	var answers []answer
	for _, r := range requests {
		answers = append(answers, ask(r))
	}
	return json.NewEncoder(os.Stdout).Encode(answers)
}

// stays is the name of an outsider that does not detach: its attachment ends with the client.
const stays = "stays"

func ask(r attach.Request) (a answer) {
	ctx := context.Background()
	c, err := attach.DialWait(ctx, os.Getenv("DAEMON_TEST_SOCKET"))
	if err != nil {
		return answer{Err: err.Error()}
	}
	defer c.Close()
	channels, err := c.Channels(ctx)
	if err != nil {
		return answer{Err: err.Error()}
	}
	a.Channels = map[string]string{}
	for _, ch := range channels {
		may := ""
		if ch.Produce {
			may += "p"
		}
		if ch.Consume {
			may += "c"
		}
		a.Channels[ch.Name] = may
	}
	got, err := c.Attach(ctx, r)
	if err != nil {
		a.Err = err.Error()
		return a
	}
	defer got.Close()
	a.Files = map[string]string{}
	for name, f := range got.Files {
		write, err := sys.AccessMode(f)
		if err != nil {
			return answer{Err: err.Error()}
		}
		mode := map[bool]string{false: "r", true: "rw"}[write]
		if !write {
			if f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDWR, 0); err == nil {
				f.Close()
				mode = "reopened"
			}
		}
		a.Files[name] = mode
	}
	if r.Name == stays {
		return a
	}
	if err := c.Detach(ctx); err != nil {
		a.Err = err.Error()
	}
	return a
}

// as prepares the test binary in a role, as a user and group.
func as(t *testing.T, d *testregion.Region, uid, gid uint32, role string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(within(t), binary(t))
	cmd.Env = append([]string{"DAEMON_TEST_ROLE=" + role, "DAEMON_TEST_SOCKET=" + d.Socket}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	return cmd
}

// requests are made by another process, as a user and group.
func requests(t *testing.T, d *testregion.Region, uid, gid uint32, rs []attach.Request) (answers []answer) {
	t.Helper()
	b, err := json.Marshal(rs)
	if err != nil {
		t.Fatal(err)
	}
	cmd := as(t, d, uid, gid, "client", "DAEMON_TEST_REQUESTS="+string(b))
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("client: %v\n%s", err, errs.Bytes())
	}
	if err := json.Unmarshal(out, &answers); err != nil || len(answers) != len(rs) {
		t.Fatalf("%d answers: %v\n%s", len(answers), err, out)
	}
	return answers
}

// What each list of the configuration opens to another user, and nothing else.
func TestAccess(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test must run as root")
	}
	t.Parallel()
	var group string
	const gid = 1 // of some system group
	if g, err := user.LookupGroupId(fmt.Sprint(gid)); err != nil {
		t.Fatal(err)
	} else {
		group = g.Name
	}
	observe := attach.Request{Role: attach.RoleObserve}
	operate := attach.Request{Role: attach.RoleOperate}
	with := func(produce, consume string) attach.Request {
		r := observe
		if produce != "" {
			r.Produce = strings.Fields(produce)
		}
		if consume != "" {
			r.Consume = strings.Fields(consume)
		}
		return r
	}
	const (
		noObserve = "the daemon refused: user 65534 may not observe region NAME: see observe in [access] (permission)"
		noOperate = "the daemon refused: user 65534 may not operate region NAME: see operate in [access], or become root or the daemon's user (permission)"
		files     = "command:r group/v:r group/w:r log:r roster:r"
	)
	refuse := func(what, channel string) string {
		return fmt.Sprintf("the daemon refused: user 65534 may not %s on channel %q: see allow_%[1]s in [channel.%[3]s] (permission)", what, channel, strings.TrimSuffix(channel, ".dead"))
	}
	const noLetter = `the daemon refused: nobody may produce on channel "jobs.dead": the daemon alone moves dead letters of "jobs" there (permission)`
	type want struct {
		request attach.Request
		err     string
		files   string // NAME:MODE, sorted
	}
	for _, tt := range []struct {
		name, access, jobs string // tables [access] and [channel.jobs]
		uid, gid           uint32
		channels           string // NAME:MAY, sorted
		wants              []want
	}{
		{"the file system refuses by default", "", "", nobody, nobody, "", []want{
			{observe, "SOCKET: permission denied: be root, the daemon's user, or a member of the group that owns the directory; what others may do, [access] in the configuration says", ""},
		}},
		{"the daemon refuses who is not listed", `observe = ["daemon"]`, `allow_consume = ["@no-such-group", "no-such-user", "65535"]`, nobody, nobody, "jobs: jobs.dead: results: results.dead:", []want{
			{observe, noObserve, ""},
			{operate, noOperate, ""},
			{with("jobs", ""), refuse("produce", "jobs"), ""},
			{with("", "jobs"), refuse("consume", "jobs"), ""},
			{with("", "jobs.dead"), refuse("consume", "jobs.dead"), ""},
			{with("none", ""), "the daemon refused: region NAME has no channel \"none\"; there are: jobs, jobs.dead, results, results.dead (no-channel)", ""},
		}},
		{"observe", `observe = ["nobody"]`, "", nobody, nobody, "jobs: jobs.dead: results: results.dead:", []want{
			{observe, "", files},
			{operate, noOperate, ""},
			{with("jobs", ""), refuse("produce", "jobs"), ""},
		}},
		{"observe, by uid", `observe = ["65534"]`, "", nobody, nobody, "jobs: jobs.dead: results: results.dead:", []want{{observe, "", files}}},
		{"observe, by group", fmt.Sprintf(`observe = ["@%s"]`, group), "", nobody, gid, "jobs: jobs.dead: results: results.dead:", []want{{observe, "", files}, {operate, noOperate, ""}}},
		{"observe, another group", fmt.Sprintf(`observe = ["@%s"]`, group), "", nobody, nobody, "jobs: jobs.dead: results: results.dead:", []want{{observe, noObserve, ""}}},
		{"operate", `operate = ["*"]`, "", nobody, nobody, "jobs: jobs.dead: results: results.dead:", []want{
			{observe, "", files},
			{operate, "", strings.Replace(files, "command:r", "command:rw", 1)},
			{with("", "jobs"), refuse("consume", "jobs"), ""},
		}},
		{"produce", "", `allow_produce = ["*"]`, nobody, nobody, "jobs:p jobs.dead: results: results.dead:", []want{
			{with("jobs", ""), "", "command:r jobs:rw roster:r"},
			{with("", "jobs"), refuse("consume", "jobs"), ""},
			{with("jobs results", ""), refuse("produce", "results"), ""},
			{observe, noObserve, ""},
			{attach.Request{Role: attach.RoleOperate, Produce: []string{"jobs"}}, noOperate, ""},
		}},
		{"consume, and observe", `observe = ["*"]`, fmt.Sprintf(`allow_consume = ["@%s"]`, group), nobody, gid, "jobs:c jobs.dead:c results: results.dead:", []want{
			{with("", "jobs jobs.dead"), "", "command:r group/v:r group/w:r jobs:rw jobs.dead:rw log:r roster:r"},
			{with("jobs", ""), refuse("produce", "jobs"), ""},
			{with("jobs.dead", ""), noLetter, ""},
		}},
		{"root", "", "", 0, 0, "jobs:pc jobs.dead:c results:pc results.dead:c", []want{
			{observe, "", strings.ReplaceAll(strings.Replace(files, "log:r", "jobs:r jobs.dead:r log:r results:r results.dead:r", 1), ":r", ":reopened")}, // the same user can
			{with("jobs.dead", ""), noLetter, ""},
			{with("jobs", "results"), "", strings.ReplaceAll(strings.Replace(files, "log:r", "jobs:rw log:r results:rw", 1), ":r ", ":reopened ") + "eopened"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := testregion.Launch(t, named+"[access]\n"+tt.access+"\n[channel.jobs]\nslots = 16\n"+tt.jobs+"\n[channel.results]\nslots = 16\n"+idle("w")+idle("v"))
			var rs []attach.Request
			for _, w := range tt.wants {
				rs = append(rs, w.request)
			}
			for i, a := range requests(t, d, tt.uid, tt.gid, rs) {
				w := tt.wants[i]
				w.err = strings.ReplaceAll(strings.ReplaceAll(w.err, "NAME", fmt.Sprintf("%q", d.Name)), "SOCKET", d.Socket)
				if a.Err != w.err {
					t.Errorf("request %+v\ngot  %s\nwant %s", w.request, a.Err, w.err)
				}
				if got := list(a.Files); got != w.files {
					t.Errorf("request %+v\ngot  %s\nwant %s", w.request, got, w.files)
				}
				if got := list(a.Channels); got != tt.channels {
					t.Errorf("request %+v: channels\ngot  %s\nwant %s", w.request, got, tt.channels)
				}
			}
		})
	}
}

// list writes a map as words KEY:VALUE, sorted.
func list(m map[string]string) string {
	var words []string
	for k, v := range m {
		words = append(words, k+":"+v)
	}
	slices.SortFunc(words, func(a, b string) int {
		x, _, _ := strings.Cut(a, ":")
		y, _, _ := strings.Cut(b, ":")
		return strings.Compare(x, y)
	})
	return strings.Join(words, " ")
}

// An operator who is another user does everything through the command segment that root does.
func TestAnotherUserOperates(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test must run as root")
	}
	t.Parallel()
	d := testregion.Start(t, named+"[access]\noperate = [\"nobody\"]\n"+idle("w"))
	run := func(args ...string) (string, int) {
		cmd := exec.CommandContext(within(t), filepath.Join(testregion.Binaries(t), "shmctl"), append([]string{"-r", d.Name, "-s", d.Socket}, args...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		cmd.Env = []string{}
		out, _ := cmd.CombinedOutput()
		return string(out), cmd.ProcessState.ExitCode()
	}
	for _, args := range [][]string{{"stop", "w.0"}, {"start", "w.0"}, {"restart", "w"}, {"logs"}, {"ps"}, {"status"}} {
		if out, code := run(args...); code != 0 {
			t.Errorf("shmctl %v: exit code %d\n%s", args, code, out)
		}
	}
}

// max_attachments is for outsiders, all of it and no more; workers have ids of their own.
func TestAttachmentsRunOut(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, strings.Replace(named, "\n[", "\n", 1)+"max_attachments = 3\n"+jobs+idle("w", "count = 2", "backoff_min = \"1ms\""))
	o := shm.Options{Region: d.Name, Socket: d.Socket}
	var held []*shm.Region
	for range 3 {
		held = append(held, d.Attach(shm.Options{Produce: []string{"jobs"}}))
	}
	for range 2 { // workers that die and come back meanwhile
		ws, err := held[0].Workers()
		if err != nil {
			t.Fatal(err)
		}
		syscall.Kill(ws[0].Pid, syscall.SIGKILL)
		for restarts := ws[0].Restarts; ws[0].State != protocol.StateReady || ws[0].Restarts == restarts; {
			if err := held[0].WaitChange(within(t)); err != nil {
				t.Fatal(err)
			}
			if ws, err = held[0].Workers(); err != nil {
				t.Fatal(err)
			}
		}
	}
	const want = "attach: the daemon refused: all 3 attachments of outsiders are in use: end some of them (shmctl ps --all lists them), or raise max_attachments in [region] (busy)"
	if _, err := shm.Attach(within(t), o); err == nil || err.Error() != want {
		t.Errorf("the fourth: %v", err)
	}
	out, errs, code := d.Shmctl("ps", "--all") // takes the memory from the processes
	if code != 0 || !strings.Contains(errs, "gives no attachment") || strings.Count(out, "daemon.test") != 3 {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
	out, errs, code = d.Shmctl("scale", "w=3", "--timeout=30s") // is carried out all the same, and waited for
	if code != 0 || !strings.Contains(errs, "gives no attachment") || strings.Contains(errs, "does not answer") {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
	if ws, err := held[0].Workers(); err != nil || len(ws) != 3 || ws[2].State != protocol.StateReady {
		t.Errorf("%+v, %v", ws, err)
	}
	if err := held[1].Close(); err != nil {
		t.Fatal(err)
	}
	again, err := shm.Attach(within(t), o)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

// One user cannot take all attachments: others still attach, and the daemon's user as often as there is room.
func TestOneUsersAttachments(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test must run as root")
	}
	t.Parallel()
	for keys, most := range map[string]int{"max_attachments = 3\n": 2, "max_attachments = 3\nmax_attachments_per_user = 1\n": 1} {
		d := testregion.Start(t, named+keys+"[access]\nobserve = [\"nobody\"]\n"+idle("w"))
		answers := requests(t, d, nobody, nobody, slices.Repeat([]attach.Request{{Role: attach.RoleObserve, Name: stays}}, 4))
		want := fmt.Sprintf("the daemon refused: all %d attachments that one user may have are in use by user %d: end some of them (shmctl ps --all lists them), or raise max_attachments_per_user in [region] (busy)", most, nobody)
		for i, a := range answers {
			if i < most && a.Err != "" || i >= most && !strings.HasSuffix(a.Err, want) {
				t.Errorf("%q: attachment %d: %q", keys, i+1, a.Err)
			}
		}
		eventually(t, "they end with their process", func() bool {
			gone := 0
			for line := range strings.Lines(d.Log()) {
				if strings.Contains(line, "outsider gone") && strings.Contains(line, `"name":"`+stays+`"`) {
					gone++
				}
			}
			return gone == most
		})
		for range 3 {
			d.Attach(shm.Options{})
		}
	}
}

// heir is a role: it attaches, sends its connection through descriptor 3, and ends.
func heir() error {
	ctx := context.Background()
	c, err := attach.DialWait(ctx, os.Getenv("DAEMON_TEST_SOCKET"))
	if err != nil {
		return err
	}
	if _, err := c.Attach(ctx, attach.Request{Role: attach.RoleObserve, Name: stays}); err != nil {
		return err
	}
	f, err := c.Unix().File()
	if err != nil {
		return err
	}
	to, err := net.FileConn(os.NewFile(3, "heir"))
	if err != nil {
		return err
	}
	return attach.NewConn(to.(*net.UnixConn)).Send(ctx, []byte("heir"), []*os.File{f})
}

// A connection whose attached process has ended is closed, although another process has it too: else one user could use up the daemon's descriptors.
func TestConnectionOfTheDead(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+idle("w"))
	ctx := within(t)
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer ours.Close()
	cmd := exec.CommandContext(ctx, binary(t))
	cmd.Env = []string{"DAEMON_TEST_ROLE=heir", "DAEMON_TEST_SOCKET=" + d.Socket}
	cmd.ExtraFiles = []*os.File{theirs}
	out, err := cmd.CombinedOutput()
	theirs.Close()
	if err != nil {
		t.Fatalf("heir: %v\n%s", err, out)
	}
	conn := func(f *os.File) *attach.Conn {
		t.Helper()
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return attach.NewConn(c.(*net.UnixConn))
	}
	_, files, err := conn(ours).Receive(ctx)
	if err != nil || len(files) != 1 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	defer files[0].Close()
	if _, _, err := conn(files[0]).Receive(ctx); err != io.EOF {
		t.Errorf("the connection of a process that has ended: %v", err)
	}
}

// hostile is a role: all that one who may connect, and even observe, can do to the socket.
func hostile() error {
	path := os.Getenv("DAEMON_TEST_SOCKET")
	var open []*net.UnixConn
	dial := func() (*net.UnixConn, error) {
		c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
		if err == nil {
			open = append(open, c)
		}
		return c, err
	}
	for range 300 { // sit there
		if _, err := dial(); err != nil {
			return err
		}
	}
	packets := [][]byte{
		{0}, []byte("{"), []byte("{}"), []byte("[1]"), []byte(`{"v":2}`), []byte(`{"v":1,"op":"reload"}`), []byte(`{"v":1,"op":"ping","op":"ping"}`),
		bytes.Repeat([]byte("x"), attach.MaxPacket+1), []byte(strings.Repeat("[", 60000)), []byte(`{"v":1,"op":"detach"}`),
		[]byte(`{"v":1,"op":"attach","role":"operate"}`), []byte(`{"v":1,"op":"attach","role":"observe","produce":["jobs"]}`),
	}
	for i := range 30 * len(packets) { // garbage
		c, err := dial()
		if err != nil {
			return err
		}
		c.Write(packets[i%len(packets)])
		if i%3 == 0 {
			c.Close()
		}
	}
	for range 20 { // ask, and never read
		c, err := dial()
		if err != nil {
			return err
		}
		c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond)) // until its queue is full
		for range 2000 {
			if _, err := c.Write([]byte(`{"v":1,"op":"channels"}`)); err != nil {
				break
			}
		}
		c, err = dial()
		if err != nil {
			return err
		}
		c.Write([]byte(`{"v":1,"op":"attach","role":"observe"}`))
	}
	r, w, err := os.Pipe() // descriptors instead of requests
	if err != nil {
		return err
	}
	for range 20 {
		c, err := dial()
		if err != nil {
			return err
		}
		c.WriteMsgUnix([]byte(`{"v":1,"op":"ping"}`), sys.Rights(int(r.Fd()), int(w.Fd())), nil)
	}
	fmt.Println("done")
	io.Copy(io.Discard, os.Stdin)
	return nil
}

func init() { roles["hostile"] = hostile }

// lingering is a role: it passes descriptors whose last close takes as long as it likes, twice over one connection, and opens so many others that this one is
// closed for them. The daemon must be stopped meanwhile, or the last close could be the role's own.
func lingering() error {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	path := &net.UnixAddr{Name: os.Getenv("DAEMON_TEST_SOCKET"), Net: "unixpacket"}
	c, err := net.DialUnix("unixpacket", nil, path)
	if err != nil {
		return err
	}
	for range 2 {
		t, err := net.DialTCP("tcp4", nil, l.Addr().(*net.TCPAddr))
		if err != nil {
			return err
		}
		if err := t.SetLinger(600); err != nil {
			return err
		}
		t.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)) // until both queues are full: nobody reads
		t.Write(make([]byte, 64<<20))
		f, err := t.File()
		if err != nil {
			return err
		}
		if _, _, err := c.WriteMsgUnix([]byte(`{"v":1,"op":"ping"}`), sys.Rights(int(f.Fd())), nil); err != nil {
			return err
		}
		f.Close() // not the last: one is in the connection
		t.Close()
	}
	var others []*net.UnixConn
	for range 300 {
		o, err := net.DialUnix("unixpacket", nil, path)
		if err != nil {
			return err
		}
		others = append(others, o)
	}
	fmt.Println("done")
	io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(others)
	return nil
}

// A descriptor that a client passes may take very long to close. That holds up nobody, and not the end of the region.
func TestLingeringDescriptors(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+idle("w"))
	cmd := exec.Command(binary(t)) // its end would be that of the lingering
	cmd.Env = []string{"DAEMON_TEST_ROLE=lingering", "DAEMON_TEST_SOCKET=" + d.Socket}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	d.Cmd.Process.Signal(syscall.SIGSTOP)
	defer d.Cmd.Process.Signal(syscall.SIGCONT)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { stdin.Close(); cmd.Wait() }()
	if _, err := io.ReadFull(stdout, make([]byte, len("done\n"))); err != nil {
		t.Fatal(err)
	}
	d.Cmd.Process.Signal(syscall.SIGCONT)
	d.WaitLog("too many connections without an attachment")
	for range 3 {
		eventually(t, "the daemon answers shmctl in time", func() bool {
			_, errs, code := d.Shmctl("status")
			return code == 0 && errs == ""
		})
	}
	out := shmctl(t, d, "stop", "-o", "json")
	var report struct{ Daemon struct{ How string } }
	if err := json.Unmarshal([]byte(out), &report); err != nil || report.Daemon.How != "exit" {
		t.Errorf("the daemon ended by %q, not by itself: %v", report.Daemon.How, err)
	}
}

// Nobody who can connect disturbs those who work, or other users' requests.
func TestHostileClients(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test must run as root")
	}
	t.Parallel()
	d := testregion.Start(t, named+"[access]\nobserve = [\"nobody\"]\n"+jobs+idle("w", "count = 2", "backoff_min = \"1ms\""))
	before := descriptors(t, d)
	cmd := as(t, d, nobody, nobody, "hostile")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stdout, make([]byte, len("done\n"))); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		eventually(t, "the daemon answers shmctl in time", func() bool { // more than once, for a slow machine's sake
			_, errs, code := d.Shmctl("status")
			return code == 0 && errs == ""
		})
	}
	r := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"jobs"}})
	q, err := r.Queue("jobs")
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if err := q.Send(within(t), []byte("x")); err != nil {
			t.Fatal(err)
		}
		if m, err := q.Receive(within(t)); err != nil || m.Ack() != nil {
			t.Fatal(err)
		}
	}
	r.Close()
	for _, w := range d.WaitReady() {
		if w.Restarts != 0 {
			t.Errorf("%+v", w)
		}
	}
	shmctl(t, d, "restart", "w")
	warnings := func() int { return len(records(t, d, func(r record) bool { return r.Level == "warn" })) }
	eventually(t, "there are warnings in the log", func() bool { return warnings() > 5 })
	if n := warnings(); n > 150 { // a few, and then one a second
		t.Errorf("%d warnings in the log", n)
	}
	stdin.Close()
	cmd.Wait()
	eventually(t, "the daemon gives up the descriptors of its guests", func() bool { return descriptors(t, d) <= before })
}

// descriptors is how many the daemon has open.
func descriptors(t *testing.T, d *testregion.Region) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// What comes and goes leaves no descriptor and no thread in the daemon.
func TestNothingLeaks(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+jobs+idle("w", "backoff_min = \"1ms\"", "backoff_max = \"1ms\"", "crash_limit = 0", "consume = [\"jobs\"]"))
	threads := func() int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", d.Cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	observer := d.Attach(shm.Options{})
	churn := func(attachments, restarts int) {
		t.Helper()
		for range attachments {
			r, err := shm.Attach(within(t), shm.Options{Region: d.Name, Socket: d.Socket, Consume: []string{"jobs"}})
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
		for range restarts {
			for done := uint64(0); ; {
				ws, err := observer.Workers()
				if err != nil {
					t.Fatal(err)
				}
				if w := ws[0]; w.State == protocol.StateReady && done == 0 {
					done = w.Restarts + 1
					syscall.Kill(w.Pid, syscall.SIGKILL)
				} else if w.State == protocol.StateReady && w.Restarts >= done {
					break
				}
				if err := observer.WaitChange(within(t)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	churn(20, 5)
	before, threadsBefore := descriptors(t, d), threads()
	churn(200, 50)
	eventually(t, fmt.Sprintf("%d descriptors, as before", before), func() bool { return descriptors(t, d) <= before })
	if n := threads(); n > threadsBefore+4 {
		t.Errorf("%d threads, and before %d", n, threadsBefore)
	}
	if err := observer.Close(); err != nil && !errors.Is(err, shm.ErrQuit) {
		t.Error(err)
	}
}
