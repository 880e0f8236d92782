package crashpoint

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
)

// fdStore plays systemd's part for one unit: it listens at a notification socket, and keeps what it is told to keep. What a daemon has sent is there, also if the daemon
// is dead when it is read, as systemd reads it before it sees the death.
type fdStore struct {
	t    testing.TB
	path string
	sock int

	mu      sync.Mutex
	more    *sync.Cond // something was read
	entries []entry    // as systemd hands them over: what was stored last comes first
	synced  int        // own messages that were read
	syncs   int        // and sent

	removals int // messages that took a segment out
}

type entry struct {
	name string
	f    *os.File
}

func newFDStore(t testing.TB) *fdStore {
	s := &fdStore{t: t, path: filepath.Join(testregion.Dir(t), "notify")}
	s.more = sync.NewCond(&s.mu)
	s.sock = must(unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0))
	check(unix.Bind(s.sock, &unix.SockaddrUnix{Name: s.path}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s.receive() {
		}
	}()
	t.Cleanup(func() {
		check(sys.SendDatagram(s.path, []byte("END")))
		<-done
		unix.Close(s.sock)
		s.keep(nil)
	})
	return s
}

// env is what a daemon has to know of it; nothing if there is none.
func (s *fdStore) env() []string {
	if s == nil {
		return nil
	}
	return []string{"NOTIFY_SOCKET=" + s.path, "INVOCATION_ID="}
}

// receive reads one message; false: the last one.
func (s *fdStore) receive() bool {
	text, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(16*4))
	n, nr, _, _, err := unix.Recvmsg(s.sock, text, rights, unix.MSG_CMSG_CLOEXEC)
	if err == unix.EINTR {
		return true
	}
	check(err)
	var files []*os.File
	for _, m := range must(unix.ParseSocketControlMessage(rights[:nr])) {
		for _, fd := range must(unix.ParseUnixRights(&m)) {
			files = append(files, os.NewFile(uintptr(fd), "stored"))
		}
	}
	said := map[string]string{}
	for line := range strings.SplitSeq(string(text[:n]), "\n") {
		k, v, _ := strings.Cut(line, "=")
		said[k] = v
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := said["SYNC"]; ok {
		s.synced++
	}
	if said["FDSTOREREMOVE"] == "1" {
		s.keep(func(e entry) bool { return e.name != said["FDNAME"] })
		if strings.HasPrefix(said["FDNAME"], "s") {
			s.removals++
		}
	}
	for _, f := range files {
		if said["FDSTORE"] == "1" && !slices.ContainsFunc(s.entries, func(e entry) bool { return sameFile(e.f, f) }) {
			s.entries = slices.Insert(s.entries, 0, entry{said["FDNAME"], f})
		} else {
			f.Close()
		}
	}
	s.more.Broadcast()
	_, end := said["END"]
	return !end
}

// sameFile reports whether two descriptors are of one open file: systemd keeps one of them.
func sameFile(a, b *os.File) bool {
	const file = 0 // KCMP_FILE
	pid := uintptr(os.Getpid())
	order, _, e := unix.Syscall6(unix.SYS_KCMP, pid, pid, file, a.Fd(), b.Fd(), 0)
	if e != 0 {
		panic(os.NewSyscallError("kcmp", e))
	}
	return order == 0
}

// keep drops what does not please; nil: all.
func (s *fdStore) keep(ok func(entry) bool) {
	s.entries = slices.DeleteFunc(s.entries, func(e entry) bool {
		if ok != nil && ok(e) {
			return false
		}
		e.f.Close()
		return true
	})
}

// drop is the end of the unit.
func (s *fdStore) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keep(nil)
}

// sync waits until all that was sent before was read.
func (s *fdStore) sync() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.syncs++
	n := s.syncs
	s.mu.Unlock()
	check(sys.SendDatagram(s.path, []byte("SYNC=1")))
	s.mu.Lock()
	for s.synced < n {
		s.more.Wait()
	}
}

// handed is what the next daemon gets: it is that of one that is dead.
func (s *fdStore) handed() (names []string, files []*os.File) {
	s.sync()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entries {
		names, files = append(names, e.name), append(files, e.f)
	}
	return names, files
}

func (s *fdStore) names() []string   { names, _ := s.handed(); return names }
func (s *fdStore) files() []*os.File { _, files := s.handed(); return files }

// await waits until the store pleases, and says what is wrong with it if it never does.
func (s *fdStore) await(wrong func([]entry) error) error {
	over := false
	timer := time.AfterFunc(patienceWithDaemon, func() {
		s.mu.Lock()
		over = true
		s.mu.Unlock()
		s.more.Broadcast()
	})
	defer timer.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		err := wrong(s.entries)
		if err == nil || over {
			return err
		}
		s.more.Wait()
	}
}

// kindOfMessage is the kind of a message to the fd store, and whose descriptor it is about; "" if it is something else.
func kindOfMessage(text string) string {
	what, _, _ := strings.Cut(text, "\n")
	_, name, _ := strings.Cut(text, "FDNAME=")
	switch {
	case what == "BARRIER=1":
		return messages + what
	case strings.HasPrefix(what, "FDSTORE") && name != "":
		return messages + what + " " + map[byte]string{'s': "segment", 'p': "pidfd", 'o': "stdout", 'e': "stderr"}[name[0]]
	}
	return ""
}

// messages is what the kinds of messages begin with.
const messages = "message "

func (p place) message() bool { return strings.HasPrefix(p.what, messages) }

// kept checks that the fd store has what belongs to the region, each thing once, and nothing else; and that what the survivors have printed while no daemon lived is in the log,
// once, which it is only if their pipes were kept.
func (d *domain) kept(survivors map[string]int) error {
	if err := d.store.await(func(have []entry) error { return d.holds(have) }); err != nil {
		return err
	}
	for end := time.Now().Add(patienceWithDaemon); ; {
		v := d.roster.ChangeWord().Load()
		err := d.said(survivors)
		if err == nil || time.Now().After(end) {
			return err
		}
		sys.FutexWait(d.roster.ChangeWord(), v, 5*time.Millisecond)
	}
}

// holds says what is wrong with the fd store.
func (d *domain) holds(have []entry) error {
	want := map[string]func(*os.File) error{"c0000": func(*os.File) error { return nil }} // the configuration
	for i, s := range must(d.roster.Segments()) {
		if s.Name != "" {
			want[fmt.Sprintf("s%04x", i)] = func(f *os.File) error { return d.sameInode(f, s.Inode, "segment "+s.Name) }
		}
	}
	for id := uint16(daemon + 1); int(id) < d.roster.AttachmentCap(); id++ {
		a, err := d.roster.Attachment(id)
		if err != nil {
			return err
		}
		if a.State != protocol.AttachmentLive {
			continue
		}
		want[fmt.Sprintf("p%04x", id)] = func(f *os.File) error {
			if pid, err := sys.PidfdPid(f); err != nil || pid != a.Pid {
				return fmt.Errorf("is a pidfd of %d (%v), not of %s, %d", pid, err, a.Name, a.Pid)
			}
			return nil
		}
		for n, letter := range map[int]string{1: "o", 2: "e"} {
			if a.Worker < 0 {
				continue
			}
			want[fmt.Sprintf("%s%04x", letter, id)] = func(f *os.File) error {
				st, err := os.Stat(fmt.Sprintf("/proc/%d/fd/%d", a.Pid, n))
				if err != nil {
					return err
				}
				return d.sameInode(f, st.Sys().(*syscall.Stat_t).Ino, fmt.Sprintf("output %d of %s", n, a.Name))
			}
		}
	}
	for _, e := range have {
		ok := want[e.name]
		if ok == nil {
			return fmt.Errorf("the fd store has %s, which belongs to nothing, or twice", e.name)
		}
		if err := ok(e.f); err != nil {
			return fmt.Errorf("in the fd store %s %w", e.name, err)
		}
		delete(want, e.name)
	}
	for name := range want {
		return fmt.Errorf("the fd store does not have %s", name)
	}
	return nil
}

func (d *domain) sameInode(f *os.File, want uint64, what string) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if is := st.Sys().(*syscall.Stat_t).Ino; is != want {
		return fmt.Errorf("has inode %d, not %d, which is %s", is, want, what)
	}
	return nil
}

// said checks that the log has what processes have printed last, once.
func (d *domain) said(survivors map[string]int) error {
	n := map[string]int{}
	for c := must(protocol.OpenLog(d.mem["log"])).Oldest(); ; {
		r, _, ok, err := c.Next()
		if err != nil {
			return fmt.Errorf("log: %w", err)
		}
		if !ok {
			break
		}
		if r.Stream == protocol.StreamStdout {
			n[r.Text]++
		}
	}
	for name, pid := range survivors {
		if text := printed(name, pid, d.prints[pid]); n[text] != 1 {
			return fmt.Errorf("the log has %q %d times", text, n[text])
		}
	}
	return nil
}
