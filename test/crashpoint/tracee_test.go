package crashpoint

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
)

// What a process of this test binary is, by the environment: the test, the tracee, or a sleeper.
const (
	roleEnv   = "SHMD_CRASHPOINT_ROLE"
	tortured  = "SHMD_TORTURE"
	tortureMk = "SHMD_TEST_TORTURE" // make torture
)

// The memory that tracer and tracee share: a page of control words, the queue, its dead-letter channel.
const (
	controlSize = 4096
	queueAt     = controlSize
	queueRoom   = 8192
	deadAt      = queueAt + queueRoom
	deadRoom    = 8192
	memorySize  = deadAt + deadRoom
)

// sharedSize is with what lies behind that: a queue that can be trimmed, and a log.
const sharedSize = memorySize + trimRoom + logRoom

// Control words: the tracer writes them while the tracee stands at a breakpoint.
const (
	wordOp    = iota
	wordOwner // of the operation
	wordDead  // for repair: the attachment that died
	wordValue // to send; received
	wordBegun
	wordDone
	wordResult
	wordFor       // the version that a compare-and-set is for
	wordVersion   // of a latest value: made, or found
	wordNoRuntime // set by the tracer: instructions of Go's runtime are no points
)

const (
	opSend = iota + 1
	opAbort
	opReceive // and ack
	opNack    // receive and nack
	opRepair
	opMove
	opReject // receive and give up
	opPurge
	opTrim  // of the queue that lies behind everything else
	opAdmit // send, unless the queue is being drained
	opDrain // begin a drain, and count what keeps the queue from being empty
	opLook  // look for a message, take one, and end the look when another has come
	opNaiveSend
	opNaiveReceive
	opFork // of the process that the tracees come from
)

var opNames = map[uint64]string{opSend: "send", opAbort: "loan+abort", opReceive: "receive+ack", opNack: "receive+nack", opRepair: "repair",
	opMove: "move dead", opReject: "receive+reject", opPurge: "purge", opTrim: "trim", opAdmit: "send, unless drained", opDrain: "drain", opLook: "look", opNaiveSend: "naive send", opNaiveReceive: "naive receive"}

const (
	resultOK = iota + 1
	resultFull
	resultEmpty
	resultLost
	resultTorn
	resultError
	resultDraining
)

func get(b []byte, word int) uint64    { return binary.LittleEndian.Uint64(b[8*word:]) }
func set(b []byte, word int, v uint64) { binary.LittleEndian.PutUint64(b[8*word:], v) }

func init() {
	if os.Getenv(roleEnv) == "tracee" {
		runtime.LockOSThread() // the main goroutine stays on the main thread, which is the one that is traced
	}
}

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "tracee":
		traceeMain()
	case "sleeper":
		sleeperMain()
	case "worker":
		workerMain()
	default:
		code := m.Run()
		testregion.Cleanup()
		os.Exit(code)
	}
}

// length is how many bytes message v has: 8 to 64.
func length(v uint64) int { return 8 * (1 + int(v*5)%8) }

// fill writes message v, one word at a time.
func fill(b []byte, v uint64) {
	for k := range length(v) / 8 {
		set(b, k, v^uint64(k)*0x9e3779b97f4a7c15)
	}
}

// message reads a message, and reports false if it is torn: if it is not what fill writes for any value.
func message(b []byte) (uint64, bool) {
	if len(b) < 8 {
		return 0, false
	}
	v := get(b, 0)
	if len(b) != length(v) {
		return v, false
	}
	for k := range len(b) / 8 {
		if get(b, k) != v^uint64(k)*0x9e3779b97f4a7c15 {
			return v, false
		}
	}
	return v, true
}

func inherited() []byte {
	b, err := unix.Mmap(3, 0, sharedSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	return b[:memorySize]
}

// traceeMain does what the control words say, between two breakpoints, for ever. The process that was executed only forks; its children
// are traced and killed. They have one thread, so nothing of the runtime of Go is there that could preempt what is stepped.
func traceeMain() {
	b := inherited()
	signal.Ignore(unix.SIGCHLD) // nobody waits for the children but the tracer
	deep(100)
	warmUp()
	procPin()
	for {
		runtime.Breakpoint() // ready: the tracer writes what to do
		op := get(b, wordOp)
		if op == opFork {
			unix.RawSyscall(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0) // the child's next stop is the breakpoint above
			continue
		}
		var q, d *protocol.Queue
		if op < opNaiveSend {
			q, d = openQueue(b), openDead(b)
		}
		if op == opTrim {
			tracedQueue = openTrimmed(b)
		}
		var e ends
		switch {
		case op >= opEnter:
			readyEntries(b[:sharedSize])
		case op >= opDefineCounter:
			metered = openGroup(b[:sharedSize])
		case op >= opSetWorker:
			readyRoster(b, op)
		case op >= opCreate:
		case op >= opWrite:
			readyLog(b)
		case op >= opTell:
			readyTopic(b)
		case op >= opCall && op <= opCallAbort:
			tracedCall = openCall(b)
		case op >= seqSend:
			e = openEnds(b)
			set(b, wordLane, e.address())
		case op >= opPut:
			traced = openLatest(b)
		}
		stepped(b, q, d, e, op)
	}
}

//go:noinline
func stepped(b []byte, q, d *protocol.Queue, e ends, op uint64) {
	runtime.Breakpoint() // to be stepped from here on
	set(b, wordBegun, 1)
	result := uint64(0)
	if op >= seqSend && op < opTell {
		result = sequence(b, e, op)
	} else {
		result = operate(b, q, d, op)
	}
	set(b, wordResult, result)
	set(b, wordDone, 1)
}

// deep makes the stack large, so that it is not moved while an operation runs.
//
//go:noinline
func deep(n int) byte {
	var b [1024]byte
	b[n] = byte(n)
	if n > 0 {
		b[0] = deep(n - 1)
	}
	return b[0] + b[n]
}

func openQueue(b []byte) *protocol.Queue {
	q, err := protocol.OpenQueue(b[queueAt : queueAt+queueRoom : queueAt+queueRoom])
	if err != nil {
		return nil
	}
	return q
}

func openDead(b []byte) *protocol.Queue {
	q, err := protocol.OpenQueue(b[deadAt : deadAt+deadRoom : deadAt+deadRoom])
	if err != nil {
		return nil
	}
	return q
}

// warmUp runs every operation once.
func warmUp() {
	s := states(4, 0, 1)[0]
	b := anonymous()
	copy(b[queueAt:], s.image)
	q, d := openQueue(b), openDead(b)
	copy(trimmed(b), trimScene(0, 0, 0).image)
	for op := uint64(opSend); op < opNaiveSend; op++ {
		tracedQueue = q
		if op == opTrim {
			tracedQueue = openTrimmed(b)
		}
		set(b, wordOwner, 5)
		set(b, wordValue, op)
		operate(b, q, d, op)
	}
	warmUpLatest(b)
	warmUpEnds(b)
	warmUpTopic(b)
	warmUpCall(b)
	warmUpLog(b)
	warmUpCreate(b)
	warmUpRoster(b)
	warmUpMetrics(b)
	warmUpEntries(b[:sharedSize])
}

func operate(b []byte, q, d *protocol.Queue, op uint64) uint64 {
	owner := uint16(get(b, wordOwner))
	switch {
	case op >= opEnter:
		return operateEntries(b[:sharedSize], op)
	case op >= opDefineCounter:
		return operateMetrics(op)
	case op >= opSetWorker:
		return operateRoster(b, op)
	case op >= opCreate:
		return operateCreate(b, op)
	case op >= opWrite:
		return operateLog(b, op)
	}
	if op >= opTell {
		return operateTopic(b, op)
	}
	if op >= opCall && op <= opCallAbort {
		return operateCall(b, tracedCall, op)
	}
	if op >= opPut {
		return operateLatest(b, traced, op)
	}
	switch op {
	case opSend, opAbort, opAdmit:
		l, err := q.TryLoan(owner)
		if err != nil {
			return result(err)
		}
		if op == opAdmit && q.Admit(l) != nil {
			return resultDraining
		}
		fill(q.LoanBytes(l), get(b, wordValue))
		if op == opAbort {
			return result(q.Abort(l))
		}
		return result(q.Commit(l, length(get(b, wordValue))))
	case opReceive, opNack:
		l, err := q.TryReceive(owner)
		if err != nil {
			return result(err)
		}
		v, whole := message(q.LeaseBytes(l))
		if !whole {
			return resultTorn
		}
		set(b, wordValue, v)
		if op == opNack {
			return result(q.Nack(l))
		}
		return result(q.Ack(l))
	case opRepair:
		dead := uint16(get(b, wordDead))
		q.Repair(func(o uint16) bool { return o == dead })
		d.Repair(func(o uint16) bool { return o == dead })
		return resultOK
	case opMove:
		_, err := q.MoveDead(d, owner)
		return result(err)
	case opReject:
		l, err := q.TryReceive(owner)
		if err != nil {
			return result(err)
		}
		v, whole := message(q.LeaseBytes(l))
		if !whole {
			return resultTorn
		}
		set(b, wordValue, v)
		return result(q.Reject(l, rejected))
	case opPurge:
		n, err := q.Purge(owner)
		set(b, wordValue, uint64(n))
		return result(err)
	case opLook:
		q.Receivers.Look()
		for i := range 2 {
			l, err := q.TryLoan(owner)
			if err != nil {
				return result(err)
			}
			fill(q.LoanBytes(l), get(b, wordValue))
			if err := q.Commit(l, length(get(b, wordValue))); err != nil {
				return result(err)
			}
			if i == 1 {
				break // this one is for another
			}
			if l, err := q.TryReceive(owner); err != nil || q.Ack(l) != nil {
				return resultLost
			}
		}
		q.Found()
		return resultOK
	case opDrain:
		err := q.Drain(true)
		st := q.Stat()
		set(b, wordValue, uint64(st.Rest()))
		return result(err)
	case opTrim:
		n, err := tracedQueue.Trim(owner, punch)
		set(b, wordValue, uint64(n))
		return result(err)
	case opNaiveSend:
		if !naive(b).send(get(b, wordValue)) {
			return resultFull
		}
		return resultOK
	case opNaiveReceive:
		v, whole, ok := naive(b).receive()
		set(b, wordValue, v)
		if !ok {
			return resultEmpty
		}
		if !whole {
			return resultTorn
		}
		return resultOK
	}
	return resultError
}

func result(err error) uint64 {
	switch {
	case err == nil:
		return resultOK
	case errors.Is(err, protocol.ErrFull):
		return resultFull
	case errors.Is(err, protocol.ErrEmpty):
		return resultEmpty
	case errors.Is(err, protocol.ErrLost):
		return resultLost
	}
	return resultError
}

// sleeperMain sends or receives one message for each line "send V" or "receive" that it reads, and sleeps on the doorbell
// meanwhile, as docs/queue.md says.
func sleeperMain() {
	b := inherited()
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		verb, arg, _ := strings.Cut(in.Text(), " ")
		if verb == "call" || verb == "slot" {
			sleepForCall(openCall(b), verb)
			continue
		}
		if verb == "read" {
			sleepForRecord(openLog(b))
			continue
		}
		if verb == "hear" || verb == "tell" {
			sleepForTopic(openTopic(b), verb)
			continue
		}
		if verb == "wait" {
			sleepForChange(openLatest(b), arg)
			continue
		}
		e := openEnds(b)
		q, bell := e.q, e.q.Receivers
		try := func() (uint64, error) {
			l, err := e.receive(8)
			if err != nil {
				return 0, err
			}
			v, whole := message(q.LeaseBytes(l))
			if !whole {
				return v, errors.New("torn")
			}
			return v, e.ack(l)
		}
		if verb == "send" {
			bell = q.Senders
			v, _ := strconv.ParseUint(arg, 10, 64)
			try = func() (uint64, error) {
				l, err := e.loan(8)
				if err != nil {
					return 0, err
				}
				fill(q.LoanBytes(l), v)
				return v, e.commit(l, length(v))
			}
		}
		fmt.Printf("bell %p\n", bell.Word())
		for {
			value := bell.Value()
			t := bell.Register()
			v, err := try()
			if errors.Is(err, protocol.ErrEmpty) || errors.Is(err, protocol.ErrFull) {
				sys.FutexWait(bell.Word(), value, time.Minute)
				bell.Unregister(t)
				continue
			}
			bell.Unregister(t)
			fmt.Printf("done %d %v\n", v, err)
			break
		}
	}
}
