package protocol

// reasonMask are the bits of a state word that hold the reason in DEAD and MOVING; in other phases they are passed.
const reasonMask = Word(1<<SlotPassedBits-1) << SlotPassedShift

// Reason returns why a message is DEAD or MOVING.
func (w Word) Reason() DeadReason {
	if r := DeadReason(w & reasonMask >> SlotPassedShift); r != 0 {
		return r
	}
	return DeadReasonMaxDeliveries
}

// Reject ends a lease: no consumer is to try the message again, whatever MaxDeliveries says; of a frame, the first message that is
// not acked. It becomes DEAD, with a reason that the daemon writes into the dead letter, and the daemon is told to move it. The
// reason is in the word that the one CAS writes, so a death before it leaves a lease to give back, and after it a dead message with
// its reason.
//
// Errors: ErrNoDeadLetters (the lease goes on), ErrLost.
func (q *Queue) Reject(l Lease, reason DeadReason) error {
	if q.maxDeliveries == 0 {
		return ErrNoDeadLetters
	}
	q.endLease()
	if !q.reject(l.slot, l.word, reason) {
		return ErrLost
	}
	return nil
}

// reject is the transition READING -> DEAD on purpose. It reports false if the slot no longer has the word w.
func (q *Queue) reject(i uint64, w Word, reason DeadReason) bool {
	dead := MakeWord(PhaseDead, 0, min(w.Deliveries()+1, maxDeliveries), w.Lap()) | Word(reason)<<SlotPassedShift&reasonMask
	if !q.slot(i).State.CompareAndSwap(uint64(w), uint64(dead)) { // N
		return false
	}
	q.counters(w.Owner()).Dead.Add(1)
	q.RingAttention()
	return true
}

// Reject gives a message up; see Queue.Reject. Errors: ErrNoDeadLetters, ErrLost.
func (l *Lane) Reject(lease Lease, reason DeadReason) error {
	if l.q.maxDeliveries == 0 {
		return ErrNoDeadLetters
	}
	return l.giveBack(lease, func(i uint64, w Word) bool { return l.q.reject(i, w, reason) })
}
