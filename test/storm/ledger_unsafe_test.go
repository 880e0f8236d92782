package storm

import (
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/shmd/shmd/internal/sys"
)

// ledger is a file that the test, all producers and all consumers map: what became of every message. It has nothing of shmd in it
// but atomic words, so it does not depend on what it judges.
type ledger struct {
	next  *atomic.Uint64  // number of the next message
	words []atomic.Uint32 // by number: see the bits
	bad   []atomic.Uint64 // counts of violations, by kind
	halt  *atomic.Uint32  // callers are to send no more and finish
	done  *atomic.Uint32  // callers that have; 1 for publishers: they may begin
}

// Bits of a message's word.
const (
	intended  = 1 << 0  // its producer is about to send it
	committed = 1 << 1  // Send has returned
	received  = 1 << 8  // added by each Receive; 8 bits
	acked     = 1 << 16 // added after each Ack; 8 bits
)

// Kinds of violations.
const (
	torn = iota
	neverSent
	afterAck
	disorder // two saw different messages at one position
	miscount // a gap is not what was told
	violations
)

const maxMessages = 64 << 20

const ledgerSize = 4096 + 4*maxMessages

func openLedger(path string) (*ledger, func(), error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if err := f.Truncate(ledgerSize); err != nil {
		return nil, nil, err
	}
	b, err := sys.Map(f, 0, ledgerSize, true)
	if err != nil {
		return nil, nil, err
	}
	p := unsafe.Pointer(&b[0])
	return &ledger{
		next:  (*atomic.Uint64)(p),
		bad:   unsafe.Slice((*atomic.Uint64)(unsafe.Add(p, 64)), violations),
		halt:  (*atomic.Uint32)(unsafe.Add(p, 2048)),
		done:  (*atomic.Uint32)(unsafe.Add(p, 2112)),
		words: unsafe.Slice((*atomic.Uint32)(unsafe.Add(p, 4096)), maxMessages),
	}, func() { sys.Unmap(b) }, nil
}
