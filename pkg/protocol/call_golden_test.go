package protocol

import "testing"

// makeCall leaves a slot in each phase: 0 ANSWERED with an error, 1 SERVING for the second time, its caller asleep, 2 REQUEST, 3 BROKEN,
// 4 CALLING, 5 SERVING without a caller, 6 ANSWERED, 7 FREE.
func makeCall(t *testing.T) []byte {
	const caller, server = 7, 9
	o := CallOptions{Slots: 8, SlotSize: 48, MaxDeliveries: 2}
	size, err := CallSize(o)
	noErr(t, err)
	b := make([]byte, size)
	c, err := FormatCall(b, goldenHeader("service"), o)
	noErr(t, err)
	var q [8]Request
	for i := range q {
		q[i], err = c.TryRequest(caller, 0)
		noErr(t, err)
	}
	send := func(i int, text string) { noErr(t, c.Send(&q[i], copy(c.RequestRoom(q[i]), text))) }
	take := func(want string) Serving {
		v, err := c.TryAccept(server, 0)
		noErr(t, err)
		if got := string(c.RequestBytes(v)); got != want {
			t.Fatalf("accepted %q, not %q", got, want)
		}
		return v
	}
	send(0, "a")
	v := take("a")
	noErr(t, c.Answer(v, copy(c.AnswerRoom(v), "größe"), 42))
	const long = "b: of more than what lies in the first line"
	send(1, long)
	if _, _, ok := c.Doze(&q[1]); !ok {
		t.Fatal("it may not sleep")
	}
	noErr(t, c.GiveBack(take(long)))
	take(long)
	send(3, "c")
	noErr(t, c.GiveBack(take("c")))
	noErr(t, c.GiveBack(take("c")))
	send(5, "d")
	noErr(t, c.GiveBack(take("d")))
	take("d")
	noErr(t, c.Leave(&q[5]))
	send(6, "e")
	v = take("e")
	noErr(t, c.Answer(v, copy(c.AnswerRoom(v), "E"), 0))
	settled, err := c.Settled(&q[6])
	if !settled {
		t.Fatal(err)
	}
	send(6, "e: the slot is used again")
	v = take("e: the slot is used again")
	noErr(t, c.Answer(v, copy(c.AnswerRoom(v), "E again"), 0))
	noErr(t, c.Leave(&q[7]))
	send(2, "f")
	c.Servers.Register()
	c.Callers.Register()
	return b
}

func readCall(t *testing.T, b []byte) {
	checkHeader(t, b, KindCall, "service")
	c, err := OpenCall(b)
	noErr(t, err)
	wantEqual(t, []int{c.Slots(), c.SlotSize(), c.MaxDeliveries(), int(c.Flags())}, []int{8, 48, 2, 0})
	type slot struct {
		phase          CallPhase
		caller, server uint16
		deliveries     int
		asleep         bool
	}
	want := []slot{
		{CallPhaseAnswered, 7, 0, 0, false}, {CallPhaseServing, 7, 9, 1, true}, {CallPhaseRequest, 7, 0, 0, false}, {CallPhaseBroken, 7, 0, 2, false},
		{CallPhaseCalling, 7, 0, 0, false}, {CallPhaseServing, 0, 9, 1, false}, {CallPhaseAnswered, 7, 0, 0, false}, {CallPhaseFree, 0, 0, 0, false},
	}
	var got []slot
	for i := range c.Slots() {
		w := c.SlotAt(i).Word
		got = append(got, slot{w.Phase(), w.Caller(), w.Server(), w.Deliveries(), w.Asleep()})
	}
	wantEqual(t, got, want)
	st := c.Stat()
	wantEqual(t, []int{st.Reach, st.Servers, st.Callers}, []int{8, 1, 1})
}

// decodeCallSlot returns the parts of a slot's words, and what it holds.
func decodeCallSlot(b []byte, row object) object {
	w := CallWord(row.get("state").(uint64))
	request, reply := row.get("request").(uint64), row.get("reply").(uint64)
	n, m := request>>CallSlotLengthShift, reply>>CallSlotReplyLengthShift
	asleep := uint64(w >> CallSlotAsleepShift & 1)
	out := object{{"_phase", uint64(w.Phase())}, {"_caller", uint64(w.Caller())}, {"_server", uint64(w.Server())}, {"_deliveries", uint64(w.Deliveries())},
		{"_asleep", asleep}, {"_seq", uint64(w.Seq())}, {"_ticket", request & (1<<CallSlotTicketBits - 1)}, {"_length", n},
		{"_code", reply & (1<<CallSlotCodeBits - 1)}, {"_reply_length", m}}
	at := callReplyAt(int(n))
	if w.Phase() != CallPhaseAnswered {
		m = 0
	}
	return append(out, member{"_request", string(b[SizeofCallSlot : SizeofCallSlot+n])}, member{"_reply", string(b[at : at+m])})
}
