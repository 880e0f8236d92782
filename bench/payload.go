package main

import "encoding/binary"

// A source holds messages that were filled long ago: what is copied from it meets no store that is still in the store buffer. It is that of
// c/harness.h.
type source struct {
	size int
	mask int
	data []byte
	sums []uint64
}

func newSource(size int) *source {
	n := 256
	if size > 1024 {
		n = 1
	}
	s := &source{size: size, mask: n - 1, data: make([]byte, size*n), sums: make([]uint64, n)}
	for k := range n {
		for w := range size / 8 {
			binary.LittleEndian.PutUint64(s.data[k*size+w*8:], uint64(k+1)*2654435761+uint64(w))
		}
		s.sums[k] = sum(s.message(k))
	}
	return s
}

// message returns the i-th message; they repeat.
func (s *source) message(i int) []byte {
	at := (i & s.mask) * s.size
	return s.data[at : at+s.size : at+s.size]
}

// table returns the messages, twice, one after the other: any n of them, n at most as many as there are, are table[i&s.mask:][:n].
func (s *source) table() [][]byte {
	all := make([][]byte, 2*(s.mask+1))
	for i := range all {
		all[i] = s.message(i)
	}
	return all
}

// run returns messages from the i-th on that lie one after another: n of them, or fewer where the source ends.
func (s *source) run(i, n int) []byte {
	k := i & s.mask
	n = min(n, s.mask+1-k)
	return s.data[k*s.size : (k+n)*s.size]
}

// sum returns the sum of message i.
func (s *source) sum(i int) uint64 { return s.sums[i&s.mask] }

// expected returns the sum of the first count messages.
func (s *source) expected(count int) (t uint64) {
	for i := range count {
		t += s.sums[i&s.mask]
	}
	return t
}

// sum reads every byte of p, whose length is a multiple of 8, as 64-bit words, and adds them up.
func sum(p []byte) uint64 {
	if len(p) == 8 { // apart, so that it is no call, as in C
		return binary.LittleEndian.Uint64(p)
	}
	return sumLong(p)
}

func sumLong(p []byte) (t uint64) {
	if len(p) == 64 {
		p = p[:64]
		return binary.LittleEndian.Uint64(p[0:]) + binary.LittleEndian.Uint64(p[8:]) + binary.LittleEndian.Uint64(p[16:]) +
			binary.LittleEndian.Uint64(p[24:]) + binary.LittleEndian.Uint64(p[32:]) + binary.LittleEndian.Uint64(p[40:]) +
			binary.LittleEndian.Uint64(p[48:]) + binary.LittleEndian.Uint64(p[56:])
	}
	if vector && len(p) >= 128 {
		n := len(p) &^ 127
		t = sumBlocks(&p[0], n)
		p = p[n:]
	}
	for ; len(p) >= 8; p = p[8:] {
		t += binary.LittleEndian.Uint64(p)
	}
	return t
}

// chunk is how much is copied at a time: a single copy of 1 MiB and more bypasses the cache.
const chunk = 128 << 10

// put copies from into to, in chunks.
func put(to, from []byte) {
	for len(from) > chunk {
		copy(to, from[:chunk])
		to, from = to[chunk:], from[chunk:]
	}
	copy(to, from)
}
