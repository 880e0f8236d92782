package protocol

// Word is the state word of a slot: lap:32 | passed:6 | deliveries:6 | owner:16 | phase:4.
type Word uint64

const (
	passedBit     Word = 1 << SlotPassedShift
	maxDeliveries      = 1<<SlotDeliveriesBits - 1
)

// MakeWord composes a state word. Owner is 0 in phases that have none.
func MakeWord(p Phase, owner uint16, deliveries int, lap uint32) Word {
	return Word(p)&(1<<SlotPhaseBits-1) | Word(owner)<<SlotOwnerShift | Word(deliveries&maxDeliveries)<<SlotDeliveriesShift | Word(lap)<<SlotLapShift
}

// Phase returns the phase; a damaged word may give one that has no name.
func (w Word) Phase() Phase { return Phase(w & (1<<SlotPhaseBits - 1)) }

// Owner returns the attachment id that holds the slot.
func (w Word) Owner() uint16 { return uint16(w >> SlotOwnerShift) }

// Deliveries returns how often a lease of the message ended without an ack.
func (w Word) Deliveries() int { return int(w>>SlotDeliveriesShift) & maxDeliveries }

// Passed reports whether a consumer went past the slot while it was WRITING.
func (w Word) Passed() bool { return w&passedBit != 0 }

// Lap returns the lap, that is the position divided by the number of slots.
func (w Word) Lap() uint32 { return uint32(w >> SlotLapShift) }
