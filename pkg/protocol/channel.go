package protocol

import "fmt"

// Channel is what all kinds of channels have in common.
type Channel interface {
	Header() Header
	Slots() int
	SlotSize() int
	// Summary takes a snapshot of what is in the channel and what went through it. It only reads.
	Summary() Summary
	// Repair gives back everything whose owner is dead, and wakes everybody who sleeps on the channel. It must follow every death
	// of a process that could use the channel and precede the next use of its attachment id; it may be killed at any point and
	// run again, and several repairs may run at once. dead must be true only for attachments whose process has ended.
	Repair(dead func(owner uint16) bool) Repaired
}

// Summary is a snapshot of a channel, for people and metrics. A count that means nothing for a kind is 0.
type Summary struct {
	Depth              int    // messages committed and not done
	Sent, Received     uint64 // messages committed; taken
	Acked              uint64 // messages done
	Redelivered        uint64 // messages given back, by nack or repair
	Dead               uint64 // messages that became dead letters
	Lost               uint64 // messages that a subscriber did not get, each counted once for each subscriber
	Aborted            uint64 // loans given back, by abort or repair
	Receivers, Senders int    // asleep
}

// Repaired counts what a repair gave back.
type Repaired struct{ Loans, Leases, Moves int }

// IsChannel reports whether segments of the kind are channels.
func IsChannel(k Kind) bool {
	return k == KindQueue || k == KindLatest || k == KindCall || k == KindTopic
}

// OpenChannel opens a channel of whichever kind. Errors: those of ReadHeader, *KindError, and of the kind's own Open function.
func OpenChannel(b []byte) (Channel, error) {
	h, err := ReadHeader(b)
	if err != nil {
		return nil, err
	}
	switch h.Kind {
	case KindQueue:
		return opened(OpenQueue(b))
	case KindLatest:
		return opened(OpenLatest(b))
	case KindCall:
		return opened(OpenCall(b))
	case KindTopic:
		return opened(OpenTopic(b))
	}
	return nil, &KindError{h.Name, h.Kind, KindQueue}
}

// opened keeps a nil pointer from becoming a Channel that is not nil.
func opened[C Channel](c C, err error) (Channel, error) {
	if err != nil {
		return nil, err
	}
	return c, nil
}

// CheckChannel is Check for a channel of whichever kind.
func CheckChannel(generation uint64) func(b []byte) error {
	return func(b []byte) error {
		h, err := ReadHeader(b)
		if err != nil {
			return err
		}
		if !IsChannel(h.Kind) {
			return fmt.Errorf("segment %q is a %v, not a channel", h.Name, h.Kind)
		}
		return Check(h.Kind, generation)(b)
	}
}
