//go:build amd64 || arm64

package sys

// Gather8 copies the first of some messages, up to one that is not of 8 bytes, to a place that has room for all, one behind the other. It returns how many.
func Gather8(to []byte, msgs [][]byte) int {
	if len(msgs) == 0 {
		return 0
	}
	_ = to[8*len(msgs)-1]
	if gathers {
		return gather8(&to[0], &msgs[0], len(msgs))
	}
	for n, m := range msgs {
		if len(m) != 8 {
			return n
		}
		*(*[8]byte)(to[8*n:]) = *(*[8]byte)(m)
	}
	return len(msgs)
}

// Gather64 is Gather8 of messages of 64 bytes. A store of a whole message takes one place in the processor's queue of stores that wait for their lines, where
// Go's copy takes four.
func Gather64(to []byte, msgs [][]byte) int {
	if len(msgs) == 0 {
		return 0
	}
	_ = to[64*len(msgs)-1]
	if gathers && vectors {
		return gather64(&to[0], &msgs[0], len(msgs))
	}
	for n, m := range msgs {
		if len(m) != 64 {
			return n
		}
		*(*[64]byte)(to[64*n:]) = *(*[64]byte)(m)
	}
	return len(msgs)
}
