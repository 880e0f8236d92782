package badinput

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/shmd/shmd/internal/attach"
	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/shm"
)

// Every socket that is not a working daemon's, through the library and through shmctl, word for word.
func TestSocketsWordForWord(t *testing.T) {
	dir := testregion.Dir(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	listen := func(network, name string) net.Listener {
		l, err := net.Listen(network, at(name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	serve := func(name, answer string) { // an answer to whatever is asked, "" to hang up
		l := listen("unixpacket", name)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Read(make([]byte, 4096))
				if answer != "" {
					c.Write([]byte(answer))
				}
				c.Close()
			}
		}()
	}
	listen("unixpacket", "silent") // accepts, and says nothing
	listen("unix", "stream")
	serve("garbage", "220 mail ready")
	serve("newer", `{"v":2,"ok":true,"pid":1}`)
	serve("rude", "")
	if err := os.WriteFile(at("file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	dead, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: at("gone"), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	noRegion := `; region "none": no living process of the region that belongs to the runtime directory ` + filepath.Dir(at("none")) + ` (user `

	for _, c := range []struct {
		name string
		is   error
		want string // after the path
		code int    // of shmctl
	}{
		{"none", shm.ErrNoDaemon, ": no daemon: there is no socket: start one (systemctl start shmd, or shmd -c FILE), or name another region (-r) or socket (-s)", 4},
		{"file/none", shm.ErrNoDaemon, ": no daemon: there is no socket: start one (systemctl start shmd, or shmd -c FILE), or name another region (-r) or socket (-s)", -1},
		{"gone", shm.ErrDeadSocket, ": dead socket: its daemon is gone; start a new one (systemctl start shmd, or shmd -c FILE), it takes the place over", 4},
		{"silent", shm.ErrSilent, ": the daemon does not answer within 1s: it is stopped, hung or just starting; see its log (journalctl -u shmd), or stop it through the memory (shmctl -r none stop)", 4},
		{"file", attach.ErrNotShmd, ": not the socket of a shmd daemon: it is no socket at all", 1},
		{"stream", attach.ErrNotShmd, ": not the socket of a shmd daemon: its socket is of another type", 1},
		{"garbage", attach.ErrNotShmd, ": not the socket of a shmd daemon: bad packet: not a JSON object", 1},
		{"newer", nil, ": packet has protocol version 2, this program speaks 1: use the shmctl and libraries of the daemon's release", 1},
		{"rude", shm.ErrDeadSocket, ": dead socket: its daemon is gone (ping: the other end closed the connection before it answered): try again, the next one takes the place over; if none comes, start it (systemctl start shmd, or shmd -c FILE)", 4},
		{strings.Repeat("x", 120), nil, "", 1},
	} {
		path := at(c.name)
		want := path + c.want
		if c.want == "" {
			want = path + ": the path of a socket has at most 107 bytes, this one has " + strconv.Itoa(len(path)) + ": use a shorter runtime directory"
		}
		var err error
		if c.name == "silent" { // the library has the patience of ten seconds
			err = errors.New("attach: " + want)
			c.is = nil
		} else {
			_, err = shm.Attach(context.Background(), shm.Options{Region: "none", Socket: path})
		}
		if err == nil || err.Error() != "attach: "+want || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: the library says\n%v\nwant\nattach: %s", c.name, err, want)
		}
		cmd := exec.Command(filepath.Join(testregion.Binaries(t), "shmctl"), "-r", "none", "-s", path, "status")
		var errs bytes.Buffer
		cmd.Stderr = &errs
		cmd.Run()
		code, text := cmd.ProcessState.ExitCode(), errs.String()
		if c.code == 4 {
			want += noRegion
		}
		if c.code >= 0 && (code != c.code || !strings.HasPrefix(text, "shmctl: "+want)) {
			t.Errorf("%s: shmctl says, with exit code %d\n%swant, with %d\nshmctl: %s", c.name, code, text, c.code, want)
		}
	}
}

// What is asked of a real daemon, and is not to be had.
func TestRequests(t *testing.T) {
	d := testregion.Start(t, "[region]\nname = \"test\"\n[channel.jobs]\nslots = 2\nslot_size = \"64B\"\n[worker.w]\nbuiltin = \"idle\"\n")
	ctx := context.Background()
	o := shm.Options{Region: d.Name, Socket: d.Socket}
	for _, c := range []struct {
		produce, consume []string
		want             string
	}{
		{[]string{"jbos"}, nil, `attach: the daemon refused: region "NAME" has no channel "jbos"; there are: jobs, jobs.dead (no-channel)`},
		{nil, []string{"jobs", "jobs"}, `attach: bad packet: "jobs" is twice in "consume"`},
		{[]string{"jobs.dead"}, nil, `attach: the daemon refused: nobody may produce on channel "jobs.dead": the daemon alone moves dead letters of "jobs" there (permission)`},
		{[]string{""}, nil, `attach: bad packet: "produce[0]" is empty`},
	} {
		o.Produce, o.Consume = c.produce, c.consume
		_, err := shm.Attach(ctx, o)
		if want := strings.NewReplacer("NAME", d.Name, "UID", strconv.Itoa(os.Getuid())).Replace(c.want); err == nil || err.Error() != want {
			t.Errorf("it says %v\nwant    %s", err, want)
		}
	}
	r := d.Attach(shm.Options{Produce: []string{"jobs"}})
	q, err := r.Queue("jobs")
	if err != nil {
		t.Fatal(err)
	}
	_, noQueue := r.Queue("results")
	l, err := q.Loan(ctx)
	if err != nil {
		t.Fatal(err)
	}
	tooMuch := l.Commit(65)
	l.Abort()
	for i, c := range []struct {
		err  error
		want string
	}{
		{noQueue, `no such channel here: "results"; this process holds: jobs (see Options.Produce and Options.Consume of Attach)`},
		{q.Send(ctx, make([]byte, 65)), `message of 65 bytes is too large: a slot of channel "jobs" holds 64; raise slot_size, or send a reference`},
		{tooMuch, `message of 65 bytes is too large: a slot of channel "jobs" holds 64; raise slot_size, or send a reference`},
		{l.Commit(1), "slot is no longer held: already committed, acked or given back, or taken by a repair"},
		{q.TrySend(nil), ""}, {q.TrySend(nil), ""}, {q.TrySend(nil), "channel is full"},
	} {
		if c.err == nil && c.want != "" || c.err != nil && c.err.Error() != c.want {
			t.Errorf("%d: %v, want %q", i, c.err, c.want)
		}
	}
}

// The launcher is started by the daemon alone.
func TestLauncher(t *testing.T) {
	cmd := exec.Command(filepath.Join(testregion.Binaries(t), "shmd"))
	cmd.Env = []string{"SHMD_LAUNCH=nonsense"}
	out, _ := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != 1 || string(out) != "shmd launcher: SHMD_LAUNCH: invalid character 'o' in literal null (expecting 'u') (only shmd itself sets it)\n" {
		t.Errorf("exit code %d: %s", code, out)
	}
}
