package protocol

// CallWord is the state word of a call slot: seq:21 | asleep:1 | deliveries:6 | server:16 | caller:16 | phase:4. The fields are those of
// docs/call.md, which argues why a compare-and-swap from a word of long ago does no harm.
type CallWord uint64

const (
	callAsleepBit = CallWord(1) << CallSlotAsleepShift
	callSeqMask   = 1<<CallSlotSeqBits - 1
)

// MakeCallWord composes a state word. Caller and server are 0 in phases that have none; asleep is not set.
func MakeCallWord(p CallPhase, caller, server uint16, deliveries int, seq uint32) CallWord {
	return CallWord(p)&(1<<CallSlotPhaseBits-1) | CallWord(caller)<<CallSlotCallerShift | CallWord(server)<<CallSlotServerShift |
		CallWord(deliveries&maxDeliveries)<<CallSlotDeliveriesShift | CallWord(seq&callSeqMask)<<CallSlotSeqShift
}

// Phase returns the phase; a damaged word may give one that has no name.
func (w CallWord) Phase() CallPhase { return CallPhase(w & (1<<CallSlotPhaseBits - 1)) }

// Caller returns the attachment id of the caller.
func (w CallWord) Caller() uint16 { return uint16(w >> CallSlotCallerShift) }

// Server returns the attachment id of the server.
func (w CallWord) Server() uint16 { return uint16(w >> CallSlotServerShift) }

// Deliveries returns how many servers took the request and gave no answer.
func (w CallWord) Deliveries() int { return int(w>>CallSlotDeliveriesShift) & maxDeliveries }

// Asleep reports whether the caller sleeps on the slot's bell, or is about to: who settles the call has to ring it.
func (w CallWord) Asleep() bool { return w&callAsleepBit != 0 }

// Seq counts the requests of the slot, modulo 2^21.
func (w CallWord) Seq() uint32 { return uint32(w >> CallSlotSeqShift) }

// settled reports whether the caller has what it waits for.
func (w CallWord) settled() bool {
	p := w.Phase()
	return p == CallPhaseAnswered || p == CallPhaseBroken
}

// with returns the word in another phase, with another caller and server, and otherwise the same.
func (w CallWord) with(p CallPhase, caller, server uint16) CallWord {
	return MakeCallWord(p, caller, server, w.Deliveries(), w.Seq()) | w&callAsleepBit
}

// free returns the word of the slot when nobody holds it any more.
func (w CallWord) free() CallWord { return MakeCallWord(CallPhaseFree, 0, 0, 0, w.Seq()) }
