package crashpoint

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/shmd/shmd/pkg/protocol"
)

// cOperation is a process in C that attaches, stops, and does one thing. `attach` is stepped from the begin of that.
const cOperation = `#include "clients/c/shmd.c"
#include <signal.h>
static int is(const char *a, const char *b) { return !strcmp(a, b); }
int main(int argc, char **argv) {
    char why[200];
    if (argc < 2) return 2;
    if (is(argv[1], "attach")) raise(SIGTRAP);
    struct shmd_worker *w = shmd_attach(why, sizeof why);
    if (!w) return 3;
    if (is(argv[1], "attach")) _exit(0);
    w->pid = 72;
    struct shmd_entry e = {0};
    if (is(argv[1], "log")) {
        e.unix_ns = atoll(argv[2]), e.level = atoi(argv[3]);
        e.text = argv[4], e.attrs = argv[5], e.source = argv[6];
        e.text_size = (uint32_t)strlen(e.text), e.attrs_size = (uint32_t)strlen(e.attrs), e.source_size = (uint32_t)strlen(e.source);
    }
    raise(SIGTRAP);
    if (is(argv[1], "log")) shmd_log_entry(w, &e);
    if (is(argv[1], "counter")) shmd_count(shmd_counter(w, argv[2], argv[3], argv[4]), 9);
    if (is(argv[1], "gauge")) shmd_gauge_set(shmd_gauge(w, argv[2], argv[3], argv[4]), 9);
    if (is(argv[1], "histogram")) shmd_observe(shmd_histogram(w, argv[2], argv[3], argv[4]), 9);
    if (is(argv[1], "wait")) shmd_wait_quit(w, 1);
    _exit(0);
}
`

// cEntry are the arguments that have cOperation log entryFor(v).
func cEntry(v uint64) []string {
	e := entryFor(v)
	return []string{"log", fmt.Sprint(e.UnixNs), fmt.Sprint(e.Level), e.Text, string(e.Attrs), e.Source}
}

// stepCLog steps an operation in C on a log in the state s, which has to bring the value `sent` or nothing; everywhere a reader that was there before, which
// reads in the living memory, gets each record once.
func stepCLog(r *cRegion, s *estate, count *tally, args ...string) {
	copy(r.fresh[2], s.image)
	scratch := make([]byte, len(s.image))
	begin := func() *tracee { return r.start(args...) }
	x := begin()
	log, reader := r.mem[2], openEntries(r.mem[2]).Oldest()
	logs := args[0] == "log"
	var last uint64
	changes := 0
	var came []uint64
	before := false
	judge := func() error {
		copy(scratch, log)
		there, err := s.seen(scratch, sent)
		if err == nil && before && !there {
			err = errors.New("what was published is gone")
		}
		before = there
		if err == nil {
			err = s.goesOn(scratch, there)
		}
		got, err2 := restOfEntries(reader)
		if came = append(came, got...); err == nil {
			err = err2
		}
		return err
	}
	for i, more := 0, true; more; i++ {
		var err error
		if h := maphash.Bytes(seed, log); i == 0 || h != last {
			last = h
			err = judge()
			if changes++; logs && (torture() || changes%20 == 4) { // and it is really killed there
				image := bytes.Clone(log)
				x.killC()
				count.killed++
				if err == nil && !bytes.Equal(image, log) {
					err = errors.New("the memory changed when it was killed")
				}
				keep := came
				x = begin()
				for range i {
					x.cStep()
				}
				came = keep
			}
		}
		count.point(err, "%s, %s in C killed at %d", s, args[0], i)
		more = x.cStep()
	}
	err := judge()
	if err == nil && (before != logs || logs && (len(came) == 0 || came[len(came)-1] != sent)) {
		err = fmt.Errorf("the record is there: %v; a reader got %d", before, came)
	}
	count.point(err, "%s, after %s in C", s, args[0])
}

// TestCLogKill kills a process in C at every instruction of a record, and of its attaching to a log that is there, as TestInstanceLogKill one in Go.
func TestCLogKill(t *testing.T) {
	t.Parallel()
	runtime.LockOSThread() // it traces
	defer runtime.UnlockOSThread()
	count := newTally(t)
	defer count.report("log of an instance, in C, kill")
	r := newCRegion(t, cOperation, entryGroup, 0)
	for i, s := range entryStates() {
		stepCLog(r, s, count, cEntry(sent)...)
		if i%3 == 0 {
			stepCLog(r, s, count, "attach")
		}
	}
}

// cMutants are wrong texts of clients/c/shmd.c: old is replaced by new. by: who finds it. core: is hunted in every run, not only with SHMD_TORTURE=1.
var cMutants = []struct {
	name     string
	by       func(t *testing.T, program string, count *tally)
	core     bool
	old, new string
}{
	{"head before the bytes [B]", killCLog, true, "    l->record[1] = ++l->seq;\n", "    l->info->head = position + n;\n    l->record[1] = ++l->seq;\n"},
	{"limit after the bytes [A]", killCLog, false, "        atomic_store_explicit(&l->info->limit, l->end, memory_order_release); /* A */\n", ""},
	{"the rest of a chunk is not marked", killCLog, false, "atomic_store_explicit(ring_word(l, position), 0, memory_order_relaxed);", ""},
	{"numbers begin anew", killCLog, false, "        l->seq = peek(l, p + 8);\n", ""},
	{"a death after A is damage", killCLog, false, "limit != l->end && limit != l->end + chunk", "limit != l->end"},
	{"the next begins where the last one began", killCLog, false, "    l->head = l->info->head;\n    l->end", "    l->head = l->info->head & ~(chunk - 1);\n    l->end"},
	{"the end of a record is short", killCLog, false, "for (uint64_t i = 0; i < n / 8; i++)", "for (uint64_t i = 0; i < n / 8 - 1; i++)"},
	{"a record crosses chunks", killCLog, false, "if (n > l->end - position) {", "if (l->end == position) {"},
	{"the daemon's nap is read before the record is there [D]", ringC, true, "    bool fills = publish(l, n);\n    pthread_mutex_unlock(&w->log_lock);\n\n    uint32_t nap = w->info->log_nap; /* D */\n",
		"    uint32_t nap = w->info->log_nap;\n    bool fills = publish(l, n);\n    pthread_mutex_unlock(&w->log_lock);\n"},
	{"who gets up answers while it lies [C]", ringC, false, "    w->page->asleep--; /* C of beat.go */\n    answer(w);\n", "    answer(w);\n    w->page->asleep--;\n"},
	{"an answer without a ring", ringC, false, "    if (ask & 1) wake(&w->info->bell);\n", ""},
	{"a metric is published before its texts [P]", killCMetrics, true, "    r->kind = kind;\n    r->value = 0;\n", "    r->state = SHMD_METRIC_STATE_PUBLISHED;\n    r->kind = kind;\n    r->value = 0;\n"},
	{"a gauge has its owner before it begins anew", killCMetrics, false, "            if (kind == SHMD_METRIC_KIND_GAUGE && r->owner != w->pid)", "            bool other = r->owner != w->pid;\n            r->owner = w->pid;\n            if (kind == SHMD_METRIC_KIND_GAUGE && other)"},
	{"every process defines its own", killCMetrics, false, "bool named = !memcmp(", "bool named = false && !memcmp("},
}

// killCLog is TestCLogKill, and what the next process in C makes of it, up to the first failure.
func killCLog(t *testing.T, program string, count *tally) {
	r := newCRegion(t, program, entryGroup, 0)
	for _, s := range entryStates() {
		stepCLog(r, s, count, cEntry(sent)...)
		if count.failed == 0 {
			count.point(succeedC(r, s), "%s, the next process in C", s)
		}
		if count.failed > 0 {
			return
		}
	}
}

// TestCMutants: each of these is found. The texts of all are looked for in every run.
func TestCMutants(t *testing.T) {
	source := string(must(os.ReadFile("../../clients/c/shmd.c")))
	for _, m := range cMutants {
		if strings.Count(source, m.old) != 1 {
			t.Errorf("%s: the text is there %d times, not once", m.name, strings.Count(source, m.old))
			continue
		}
		if !m.core && !torture() {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			file := filepath.Join(t.TempDir(), "mutant.c")
			must(0, os.WriteFile(file, []byte(strings.Replace(source, m.old, m.new, 1)), 0o600))
			f := &finds{TB: t}
			if m.by(t, strings.Replace(cOperation, "clients/c/shmd.c", file, 1), newTally(f)); f.first == "" {
				t.Error("nobody found it")
			}
			t.Logf("found: %.300s", f.first)
		})
	}
}

// finds takes errors down instead of failing.
type finds struct {
	testing.TB
	first string
}

func (f *finds) Errorf(format string, args ...any) {
	if f.first == "" {
		f.first = fmt.Sprintf(format, args...)
	}
}

func (f *finds) FailNow() {}

// succeedC has a process in C log three records on what others left: what s has, and what a death at each change of the memory left of a fourth.
func succeedC(r *cRegion, s *estate) error {
	copy(r.fresh[2], s.image)
	x := r.start(cEntry(sent)...)
	var images [][]byte
	for more := true; more; {
		if n := len(images); n == 0 || !bytes.Equal(images[n-1], r.mem[2]) {
			images = append(images, bytes.Clone(r.mem[2]))
		}
		more = x.cStep()
	}
	for i := range images {
		if i%8 != 0 && i < len(images)-2 && i > 3 { // the begin and the end, and some between
			continue
		}
		image := images[i]
		there, err := s.seen(image, sent)
		if err != nil {
			return err
		}
		last := s.last
		if there {
			last++
		}
		for n := range 3 {
			must(protocol.OpenGroup(image)).Reset(0)
			copy(r.fresh[2], image)
			reader := openEntries(image)
			from := reader.Head()
			v := uint64(200 + n)
			x := r.start(cEntry(v)...)
			for x.cStep() {
			}
			copy(image, r.mem[2])
			c := openEntries(image).From(from)
			last++
			rec, _, ok, err := c.Next()
			if err != nil || !ok || rec.Seq != last {
				return fmt.Errorf("the next process's record %d: %v, number %d, want %d: %w", n, ok, rec.Seq, last, err)
			}
			if got, err := wholeEntry(rec); err != nil || got != v {
				return fmt.Errorf("the next process's record %d: value %d, want %d: %w", n, got, v, err)
			}
		}
	}
	return nil
}

// TestCLogSucceeds: the next process in C goes on behind what a death in C left, at each store.
func TestCLogSucceeds(t *testing.T) {
	t.Parallel()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r := newCRegion(t, cOperation, entryGroup, 0)
	for _, s := range entryStates() {
		if err := succeedC(r, s); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
}
