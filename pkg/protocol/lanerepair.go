package protocol

// What a repair does to the ends of a lane, beside what Queue.Repair does to each slot.

// repairEnds gives the ends of dead processes free, after what they held has been made explicit in the slots. Each step is one store or
// compare-and-swap of a fact, so that it may be cut short anywhere and done again.
func (q *Queue) repairEnds(dead func(owner uint16) bool) (leases int) {
	i := q.info
	if o := i.SendOwner.Load(); o != 0 && dead(uint16(o)) {
		q.mendTail()
		i.SendOwner.CompareAndSwap(o, 0)
	}
	o := i.ReceiveOwner.Load()
	if o == 0 || !dead(uint16(o)) {
		return 0
	}
	acked, head := i.Acked.Load(), i.Head.Load()
	from := acked
	if head-from > q.mask+1 {
		from = head - min(head, q.mask+1)
	}
	for p := from; p != head; p++ {
		if q.giveBack(p, q.ready(p), 1) { // R
			leases++
		}
	}
	i.Acked.CompareAndSwap(acked, head) // after R: until then the slots are not the producer's
	i.ReceiveOwner.CompareAndSwap(o, 0)
	return leases
}

// mendTail moves Tail over what a dead producer committed and did not publish. The consumer may have taken it; then the slot's
// word need not show it any more, but Head does: it is stored before, and so loaded after.
func (q *Queue) mendTail() {
	for range q.mask + 1 {
		t := q.info.Tail.Load()
		if Word(q.slot(t).State.Load()) != q.ready(t) && int64(q.info.Head.Load()-t) <= 0 || !q.info.Tail.CompareAndSwap(t, t+1) {
			return
		}
	}
}
