package sys

import (
	"context"
	"math"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A Hub lets any number of goroutines wait on futex words with few threads. A sleeping
// hub uses no CPU: nothing in it is periodic.
//
//	goroutine ──┐ first 4: each sleeps in the kernel itself   (a sleeper)
//	goroutine ──┤
//	    …       │ all others: a channel ◄── thread that sleeps on up to 127 words
//	goroutine ──┘                           for all of them   (a batch)
//
// A sleeper waits with futex_waitv on {its own bell, the word}; a batch on {its own bell,
// word, word, …}. The bell is a private word that Wait, Forget, Close and a cancelled
// context ring, so that the set can change. Without futex_waitv (before Linux 5.16)
// there are no sleepers, and a batch is one word in FUTEX_WAIT.
//
// # Why no wake-up is lost
//
// The set of a batch and what its thread sleeps on change only under mu. The thread
// reads its bell (A) and each word (B) under mu, and gives those values to the kernel,
// which compares them again before it sleeps.
//
//   - A word that changes after B: the kernel sees the difference, or the thread is
//     queued already and the wake that follows the change reaches it.
//   - A goroutine that joins after A rings the bell under mu (C), after A: the kernel sees
//     the difference, or the thread is queued and the ring wakes it. C matches A.
//   - A goroutine that joins a word that is slept on already, with the value that is
//     slept on, need not ring: the first point covers it.
//   - A wake that reaches a thread for a word that nobody waits on any more (its goroutine
//     was cancelled, the thread not yet told) is passed on, so that a waker that wakes
//     one sleeper only, in any process, is not cheated.
//
// Without futex_waitv there is no bell: see kick.
type Hub struct {
	waitv     bool // the kernel has futex_waitv
	batchSize int  // words a thread takes: MaxWaitv-1 or 1

	mu       sync.Mutex
	changed  sync.Cond // a thread or a sleeper left the kernel; somebody in Forget or Close may care
	closed   bool
	words    map[*atomic.Uint32]*hubWord // of all batches
	batches  []*batch
	kickers  int
	sleepers []sleeper
	ticking  *atomic.Int32 // goroutines that sleep for batches: see CountIn
}

// hubSleepers is how many goroutines of a Hub sleep in the kernel themselves, which
// saves a wake-up the hop over a second thread.
const hubSleepers = 4

// A hubWord is a word that goroutines wait on, or did until a moment ago: who waits on a
// word in a loop finds it slept on still, and need not disturb the thread.
type hubWord struct {
	addr  *atomic.Uint32
	batch *batch
	first *hubWaiter
	stays int // how many more times the thread sleeps on it with nobody waiting
}

// hubRefusals bounds how often a set is tried that the kernel refuses for no word's sake.
const hubRefusals = 8

// hubStays bounds how often a thread sleeps on a word that nobody waits on.
const hubStays = 4

// A hubWaiter is one goroutine in Wait.
type hubWaiter struct {
	val        uint32
	word       *hubWord   // nil once it was told
	prev, next *hubWaiter // the others on the same word
	told       chan error // one place, so that telling never blocks
}

// A batch is a thread and the words it waits on.
type batch struct {
	bell    atomic.Uint32
	words   []*hubWord
	waiters int // on all words; the thread lives as long as there are some

	// What the thread gave to the kernel, if it is armed: words that left meanwhile are
	// still here, words that joined are not yet.
	armed   bool
	rung    bool   // the bell was rung, or a kicker is under way, since it was armed
	turn    uint64 // counts the times it was armed
	set     []FutexWord
	vec     []futexWaiter
	refused int // how often in a row the kernel refused the set
	ticking bool
	thread  int // without futex_waitv: for interrupt
}

// A sleeper is a place for one goroutine that sleeps in the kernel itself.
type sleeper struct {
	bell atomic.Uint32
	addr *atomic.Uint32 // what it sleeps on; nil: the place is free
	turn uint64         // counts its users
	err  error          // why it has to leave
	vec  [2]futexWaiter
}

var waiterPool = sync.Pool{New: func() any { return &hubWaiter{told: make(chan error, 1)} }}

// NewHub makes a Hub; it starts no thread until somebody waits. Close it.
func NewHub() *Hub { return newHub(HaveFutexWaitv(), hubSleepers) }

func newHub(waitv bool, sleepers int) *Hub {
	h := &Hub{waitv: waitv, batchSize: 1, words: make(map[*atomic.Uint32]*hubWord), ticking: new(atomic.Int32)}
	h.changed.L = &h.mu
	if waitv {
		h.batchSize = MaxWaitv - 1
		h.sleepers = make([]sleeper, sleepers)
	}
	return h
}

// Wait returns nil as soon as *addr is not val or a wake reached the word; it may also
// return nil for no reason. Else it returns ctx.Err() when ctx ends, ErrClosed after
// Close or Forget, or an error that wraps syscall.EFAULT if the word went away while it
// slept (the file behind the mapping was cut short). The word may lie in a read-only
// mapping, which must stay mapped until Wait has returned.
//
// Change the word, then wake it: a wake without a change may pass unnoticed, since the
// thread that sleeps for this goroutine leaves the kernel at times.
//
// A nil may stand for a wake that was counted for this waiter (FutexWake with a small
// n): who then does not want it has to pass it on. One wake of a word tells every
// goroutine of this Hub that waits on it in a batch.
func (h *Hub) Wait(ctx context.Context, addr *atomic.Uint32, val uint32) error {
	return h.WaitUnless(ctx, addr, val, nil)
}

// WaitUnless is Wait that returns ErrClosed if stop is true when it begins. Who sets
// stop and then calls Forget knows that no later Wait sleeps on the memory: each one
// either began before, and Forget ends it, or sees stop.
func (h *Hub) WaitUnless(ctx context.Context, addr *atomic.Uint32, val uint32, stop *atomic.Bool) error {
	return h.wait(ctx, addr, val, stop, h.sleepers)
}

// WaitLong is WaitUnless (stop may be nil) for what will probably sleep for long, such as a
// quit flag: it leaves the few places that are woken fastest to others.
func (h *Hub) WaitLong(ctx context.Context, addr *atomic.Uint32, val uint32, stop *atomic.Bool) error {
	return h.wait(ctx, addr, val, stop, nil)
}

func (h *Hub) wait(ctx context.Context, addr *atomic.Uint32, val uint32, stop *atomic.Bool, places []sleeper) error {
	if addr.Load() != val {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	h.mu.Lock()
	if h.closed || stop != nil && stop.Load() {
		h.mu.Unlock()
		return ErrClosed
	}
	for i := range places {
		if s := &places[i]; s.addr == nil {
			s.addr, s.err = addr, nil
			s.turn++
			h.mu.Unlock()
			return h.sleep(ctx, s, addr, val)
		}
	}
	w := h.join(addr, val)
	h.mu.Unlock()
	return h.await(ctx, w)
}

// sleep waits in the kernel itself, in the place s.
func (h *Hub) sleep(ctx context.Context, s *sleeper, addr *atomic.Uint32, val uint32) error {
	defer func() { // by defer: a load of addr may fault
		h.mu.Lock()
		s.addr = nil
		h.changed.Broadcast()
		h.mu.Unlock()
	}()
	if ctx.Done() != nil {
		// It may still run when somebody else has the place: he looks and sleeps on.
		stop := context.AfterFunc(ctx, s.ring)
		defer stop()
	}
	for {
		// The bell first, then why it might have been rung: what happens in between rings
		// it, and the kernel sees that.
		bell := s.bell.Load()
		if err := ctx.Err(); err != nil {
			return err
		}
		h.mu.Lock()
		err := s.err
		h.mu.Unlock()
		if err != nil {
			return err
		}
		// The word last: if both were woken the kernel tells the higher, and a counted
		// wake-up of the word must not get lost.
		s.vec = [2]futexWaiter{waiterOn(&s.bell, bell), waiterOn(addr, val)}
		switch i, e := futexWaitv(s.vec[:], nil); {
		case e == 0 && i == 1:
			return nil
		case e != 0 && e != syscall.EAGAIN && e != syscall.EINTR:
			return fail("futex_waitv", e)
		}
		if addr.Load() != val {
			return nil
		}
	}
}

// ring makes the sleeper look at its context and at err.
func (s *sleeper) ring() {
	s.bell.Add(1)
	FutexWake(&s.bell, 1)
}

// join puts a waiter on the word and makes sure that a thread sleeps on it. With mu held.
func (h *Hub) join(addr *atomic.Uint32, val uint32) *hubWaiter {
	word := h.words[addr]
	if word == nil {
		word = &hubWord{addr: addr, batch: h.batchFor(addr)}
		word.batch.words = append(word.batch.words, word)
		h.words[addr] = word
	}
	w := waiterPool.Get().(*hubWaiter)
	w.val, w.word = val, word
	w.prev, w.next = nil, word.first
	if w.next != nil {
		w.next.prev = w
	}
	word.first = w
	word.stays = hubStays

	b := word.batch
	b.waiters++
	if !b.ticking {
		b.ticking = true
		h.ticking.Add(1)
		go h.tick(b)
	} else if b.armed && !b.sleepsOn(addr, val) {
		h.kick(b) // C
	}
	return w
}

// batchFor finds the batch that takes the word. With mu held.
func (h *Hub) batchFor(addr *atomic.Uint32) *batch {
	for _, b := range h.batches {
		// Without futex_waitv a thread that has not noticed yet that its word was left is
		// the one for that word, and for no other.
		if h.waitv || !b.armed || b.set[0].Addr == addr {
			if len(b.words) < h.batchSize || h.makeRoom(b) {
				return b
			}
		}
	}
	b := &batch{}
	h.batches = append(h.batches, b)
	return b
}

// makeRoom drops a word that nobody waits on. With mu held.
func (h *Hub) makeRoom(b *batch) bool {
	for _, word := range b.words {
		if word.first == nil {
			h.drop(word)
			return true
		}
	}
	return false
}

// sleepsOn tells whether the kernel has the word with this value. With mu held.
func (b *batch) sleepsOn(addr *atomic.Uint32, val uint32) bool {
	for _, s := range b.set {
		if s.Addr == addr {
			return s.Val == val
		}
	}
	return false
}

// await waits until the waiter is told or its context ends.
func (h *Hub) await(ctx context.Context, w *hubWaiter) error {
	var err error
	select {
	case err = <-w.told:
	case <-ctx.Done():
		h.mu.Lock()
		if w.word == nil {
			// Told at the same instant. A wake-up goes to the caller, who may have to
			// pass it on.
			err = <-w.told
		} else {
			err = ctx.Err()
			h.leave(w)
		}
		h.mu.Unlock()
	}
	waiterPool.Put(w)
	return err
}

// leave takes the waiter off its word, and the word out of its batch if it was the last.
// The thread may sleep on the word a while longer: it will pass on what it gets. Only if
// nobody needs the thread is it told. With mu held.
func (h *Hub) leave(w *hubWaiter) {
	word := w.word
	h.unlink(w)
	if word.first == nil {
		h.drop(word)
	}
	if b := word.batch; b.waiters == 0 {
		h.kick(b)
	}
}

// unlink takes the waiter off its word. With mu held.
func (h *Hub) unlink(w *hubWaiter) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		w.word.first = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	}
	w.word.batch.waiters--
	w.word, w.prev, w.next = nil, nil, nil
}

// drop forgets a word that nobody waits on. With mu held.
func (h *Hub) drop(word *hubWord) {
	delete(h.words, word.addr)
	ws := word.batch.words
	for i := range ws {
		if ws[i] == word {
			ws[i] = ws[len(ws)-1]
			ws[len(ws)-1] = nil
			word.batch.words = ws[:len(ws)-1]
			return
		}
	}
}

// tell ends the Wait of all who wait on the word. With mu held.
func (h *Hub) tell(word *hubWord, err error) {
	for word.first != nil {
		h.tellOne(word.first, err)
	}
}

func (h *Hub) tellOne(w *hubWaiter, err error) {
	h.unlink(w)
	w.told <- err
}

// fail ends the Wait of all who wait on the word, and the business with it. With mu held.
func (h *Hub) fail(word *hubWord, err error) {
	h.tell(word, err)
	h.drop(word)
}

// CountIn has the hub count the goroutines of its own, which sleep in the kernel for those that wait, in n, to which others may add too. It is called before
// the first Wait.
func (h *Hub) CountIn(n *atomic.Int32) { h.ticking = n }

// tick is the thread of a batch: it arms itself with the words, sleeps, tells the waiters
// of those that changed or were woken, and ends when nobody waits.
func (h *Hub) tick(b *batch) {
	defer h.ticking.Add(-1)
	debug.SetPanicOnFault(true) // for load; it is this goroutine's own setting
	if !h.waitv {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		b.thread = currentThread()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		h.review(b)
		if b.waiters == 0 {
			h.retire(b)
			return
		}
		h.arm(b)
		h.mu.Unlock()
		i, e := b.sleep(h.waitv)
		h.mu.Lock()
		b.armed = false
		h.changed.Broadcast()
		h.disarm(b, i, e)
	}
}

// review reads every word (B) and tells the waiters who waited for another value than
// it has. With mu held.
func (h *Hub) review(b *batch) {
	b.set = b.set[:0]
	// From the end, since drop moves the last word to the place of the one that it drops.
	for i := len(b.words) - 1; i >= 0; i-- {
		word := b.words[i]
		val, err := load(word.addr)
		if err != nil {
			h.fail(word, err)
			continue
		}
		for w := word.first; w != nil; {
			next := w.next
			if w.val != val {
				h.tellOne(w, nil)
			}
			w = next
		}
		if word.first == nil {
			if word.stays--; word.stays < 0 {
				h.drop(word)
				continue
			}
		}
		b.set = append(b.set, FutexWord{word.addr, val})
	}
}

// load reads a word whose memory may have no file behind it any more.
func load(addr *atomic.Uint32) (val uint32, err error) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := faultAddr(r); !ok {
				panic(r)
			}
			err = fail("futex", syscall.EFAULT)
		}
	}()
	return addr.Load(), nil
}

// arm prepares what the kernel gets. With mu held.
func (h *Hub) arm(b *batch) {
	if h.waitv {
		b.vec = append(b.vec[:0], waiterOn(&b.bell, b.bell.Load())) // A
		for _, s := range b.set {
			b.vec = append(b.vec, waiterOn(s.Addr, s.Val))
		}
	}
	b.armed, b.rung = true, false
	b.turn++
}

// sleep returns the index in set of a word that was woken, or -1. Without mu.
func (b *batch) sleep(waitv bool) (int, error) {
	var i int
	var e syscall.Errno
	if waitv {
		i, e = futexWaitv(b.vec, nil)
		i--
	} else {
		e = futexWait(b.set[0].Addr, b.set[0].Val, farAway)
	}
	switch e {
	case 0:
		return i, nil
	case syscall.EAGAIN, syscall.EINTR:
		return -1, ErrAgain
	}
	return -1, fail("futex", e)
}

var (
	// farAway is a deadline that never comes: a signal ends a wait with a deadline, and
	// restarts one without.
	farAway = deadline(math.MaxInt64)
	// longAgo is one that has passed.
	longAgo = deadline(0)
)

// disarm deals with what the kernel said: it tells the waiters of the word that was woken.
// Words that changed without being reported are left to review. With mu held.
func (h *Hub) disarm(b *batch, woken int, err error) {
	if err != nil && err != ErrAgain {
		h.sift(b, err)
		return
	}
	b.refused = 0
	for i, s := range b.set {
		woken := err == nil && i == woken
		word := h.words[s.Addr]
		if word != nil && word.batch == b && word.first != nil {
			if woken {
				h.tell(word, nil)
			}
			continue
		}
		// Nobody waits on it here. If it was woken, or changed and so may have been woken
		// (one call tells of one word only), the wake-up belongs to somebody else.
		if !woken {
			val, err := load(s.Addr)
			if err != nil || val == s.Val {
				continue
			}
		}
		h.passOn(s.Addr)
		if word != nil && word.batch == b {
			h.drop(word)
		}
	}
}

// sift deals with a set that the kernel refuses: it asks for each word alone, and fails
// those that are refused again. (To read them is not enough: for a while a processor may
// still reach memory that the kernel has taken away.) If no word is to blame, as with
// ENOMEM, a few more tries are made before all are failed. With mu held.
func (h *Hub) sift(b *batch, err error) {
	b.refused++
	for _, s := range b.set {
		word := h.words[s.Addr]
		if word == nil || word.batch != b {
			continue
		}
		switch e := futexWait(s.Addr, s.Val, longAgo); e {
		case 0:
			h.tell(word, nil)
		case syscall.EAGAIN, syscall.ETIMEDOUT, syscall.EINTR:
			if b.refused > hubRefusals {
				h.fail(word, err)
			}
		default:
			h.fail(word, fail("futex", e))
			b.refused = 0
		}
	}
}

// passOn gives a wake-up, that reached a thread for nobody, to the next sleeper.
func (h *Hub) passOn(addr *atomic.Uint32) { FutexWake(addr, 1) }

// retire ends a batch that nobody waits on. With mu held.
func (h *Hub) retire(b *batch) {
	for len(b.words) > 0 {
		h.drop(b.words[0])
	}
	for i := range h.batches {
		if h.batches[i] == b {
			h.batches = append(h.batches[:i], h.batches[i+1:]...)
			break
		}
	}
	h.changed.Broadcast()
}

// kick gets the thread out of the kernel to look at its words, if it is there. It does
// not wait for that. With mu held.
func (h *Hub) kick(b *batch) {
	if !b.armed || b.rung {
		return
	}
	b.rung = true
	if h.waitv {
		b.bell.Add(1)
		FutexWake(&b.bell, 1)
		return
	}
	// Without a bell a signal interrupts the thread. (To wake it on its word would disturb
	// other processes, and does nothing if the memory is gone.) A signal that comes just
	// before the thread sleeps is lost, hence the repetition until it has moved; one round
	// is the rule.
	h.kickers++
	go h.kickUntilMoved(b, b.turn)
}

func (h *Hub) kickUntilMoved(b *batch, turn uint64) {
	for pause := 20 * time.Microsecond; ; pause = min(2*pause, 10*time.Millisecond) {
		h.mu.Lock()
		if !b.armed || b.turn != turn {
			h.kickers--
			h.changed.Broadcast()
			h.mu.Unlock()
			return
		}
		interrupt(b.thread)
		h.mu.Unlock()
		time.Sleep(pause)
	}
}

// Forget wakes those who wait on words within b with ErrClosed, and returns when no thread
// of the hub sleeps on a word in b or will read one: as far as the hub is concerned b may
// be unmapped then (by who knows that no goroutine is still about to wait on it). A Wait on
// b that begins later waits as ever: see WaitUnless.
func (h *Hub) Forget(b []byte) {
	h.forget(func(addr *atomic.Uint32) bool { return wordIn(b, addr) })
}

// Close ends every Wait with ErrClosed, now and later, and returns when the hub's threads
// have ended. A second Close waits for the same.
func (h *Hub) Close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.forget(func(*atomic.Uint32) bool { return true })
	h.mu.Lock()
	for len(h.batches) > 0 || h.kickers > 0 {
		h.changed.Wait()
	}
	h.mu.Unlock()
}

// forget ends all business with words that match.
func (h *Hub) forget(match func(*atomic.Uint32) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()

	for addr, word := range h.words {
		if match(addr) {
			h.fail(word, ErrClosed)
		}
	}
	// Wait for those who are in the kernel with such a word until they have come out once.
	type place struct {
		s    *sleeper
		b    *batch
		turn uint64
	}
	var out []place
	for i := range h.sleepers {
		if s := &h.sleepers[i]; s.addr != nil && match(s.addr) {
			s.err = ErrClosed
			s.ring()
			out = append(out, place{s: s, turn: s.turn})
		}
	}
	for _, b := range h.batches {
		if !b.armed {
			continue
		}
		for _, s := range b.set {
			if match(s.Addr) {
				h.kick(b)
				out = append(out, place{b: b, turn: b.turn})
				break
			}
		}
	}
	for _, p := range out {
		for p.s != nil && p.s.addr != nil && p.s.turn == p.turn ||
			p.b != nil && p.b.armed && p.b.turn == p.turn {
			h.changed.Wait()
		}
	}
}
