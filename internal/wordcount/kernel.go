package wordcount

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"iter"
	"math/bits"
	"math/rand/v2"
	"slices"
)

// Counter counts words. The zero value is empty and ready; it must not be
// copied and is for one goroutine at a time.
//
// It is an open-addressing hash table with linear probing, at most half full.
// Words of up to seven letters are their own key: their bytes, lowercased and
// padded with zeros, are the cell's 64-bit key, so the most frequent words cost
// one compare and no memory of their own. Longer words have a 64-bit hash as
// their key, with the top bit set so that it is never a short word's key, and
// their bytes lie in an arena.
type Counter struct {
	cells []cell
	spans []span // parallel to cells; only long words have one
	arena []byte // bytes of the long words, lowercased
	used  int    // cells that hold a word
	words uint64
	seed  uint64 // keeps an input from being made to collide
}

// cell is empty while key is 0; no word has that key.
type cell struct {
	key   uint64
	count uint64
}

// span is where a long word lies in the arena.
type span struct{ off, len int }

const (
	shortMax    = 7 // letters of a word that is its own key
	firstCells  = 1 << 12
	keptArena   = 16 << 20 // bytes of arena that Reset keeps
	longKey     = 1 << 63
	hashMul     = 0x9e3779b97f4a7c15
	hashMulLong = 0xd6e8feb86659fd93

	ones = 0x0101010101010101
	high = 0x80 * ones
)

// Count adds the words of text that start in [from, to). text is the whole
// file: a word that began before from belongs to an earlier range and is
// skipped, and a word that goes on past to is read to its end. The ranges of a
// file, counted anywhere in any order, so add up to the file.
//
// It requires 0 <= from <= to <= len(text).
func (c *Counter) Count(text []byte, from, to int) {
	c.init()
	// The text is taken in blocks of 64 bytes, each as a bitmap of its letters. A
	// word starts at a letter that has no letter before it, which leaves out the
	// word that began before from, and its length is read off the bitmap of this
	// block and the next without a branch.
	var before uint64 // 1 if a letter lies before the block
	if from > 0 && from < to && isLetter(text[from-1]) {
		before = 1
	}
	next := letterBits(text, from)
	for base := from; base < to; base += 64 {
		cur := next
		next = letterBits(text, base+64)
		starts := cur &^ (cur<<1 | before)
		before = cur >> 63
		if to-base < 64 {
			starts &= 1<<(to-base) - 1
		}
		for ; starts != 0; starts &= starts - 1 {
			s := bits.TrailingZeros64(starts)
			n := bits.TrailingZeros64(^(cur>>s | next<<1<<(63-s)))
			if n > shortMax {
				c.countLong(text, base+s)
				continue
			}
			c.addShort((load(text, base+s)|0x20*ones)&(1<<(8*n)-1), 1)
		}
	}
}

// countLong counts the word of eight letters or more that starts at i. The word
// is lowercased onto the end of the arena, which is cut back if it was known.
func (c *Counter) countLong(text []byte, i int) {
	start := len(c.arena)
	h := c.seed
	for {
		x := load(text, i)
		n := runLen(x)
		x |= 0x20 * ones
		if n < 8 {
			x &= 1<<(8*n) - 1
		}
		h = mix(h^x, hashMulLong)
		c.arena = binary.LittleEndian.AppendUint64(c.arena, x)
		i += n
		if n < 8 {
			c.arena = c.arena[:len(c.arena)-8+n]
			break
		}
	}
	c.addLong(h|longKey, start, 1)
}

// Add counts word n times. word is lowercase ASCII letters only; an empty word
// or n = 0 is ignored.
func (c *Counter) Add(word []byte, n uint64) {
	if len(word) == 0 || n == 0 {
		return
	}
	c.init()
	if len(word) <= shortMax {
		c.addShort(load(word, 0), n)
		return
	}
	start := len(c.arena)
	c.arena = append(c.arena, word...)
	h := c.seed
	i := 0
	for ; i+8 <= len(word); i += 8 {
		h = mix(h^binary.LittleEndian.Uint64(word[i:]), hashMulLong)
	}
	h = mix(h^load(word, i), hashMulLong)
	c.addLong(h|longKey, start, n)
}

func (c *Counter) addShort(key, n uint64) {
	c.words += n
	cells := c.cells
	for i := mix(key^c.seed, hashMul); ; i++ {
		p := &cells[i&uint64(len(cells)-1)]
		if p.key == key {
			p.count += n
			return
		}
		if p.key == 0 {
			p.key, p.count = key, n
			c.grew()
			return
		}
	}
}

// addLong counts the word that lies in the arena from start to its end, and
// takes it off the arena if it is there already.
func (c *Counter) addLong(key uint64, start int, n uint64) {
	c.words += n
	cells, word := c.cells, c.arena[start:]
	for i := mix(key^c.seed, hashMul); ; i++ {
		k := i & uint64(len(cells)-1)
		p := &cells[k]
		if p.key == key && bytes.Equal(c.span(k), word) {
			p.count += n
			c.arena = c.arena[:start]
			return
		}
		if p.key == 0 {
			p.key, p.count = key, n
			c.spans[k] = span{start, len(word)}
			c.grew()
			return
		}
	}
}

func (c *Counter) span(k uint64) []byte {
	s := c.spans[k]
	return c.arena[s.off : s.off+s.len]
}

func (c *Counter) init() {
	if c.cells == nil {
		c.seed = rand.Uint64()
		c.cells = make([]cell, firstCells)
		c.spans = make([]span, firstCells)
	}
}

// grew notes one more word and doubles a table that is more than half full.
func (c *Counter) grew() {
	c.used++
	if 2*c.used <= len(c.cells) {
		return
	}
	old, oldSpans := c.cells, c.spans
	c.cells = make([]cell, 2*len(old))
	c.spans = make([]span, 2*len(old))
	mask := uint64(len(c.cells) - 1)
	for k, p := range old {
		if p.key == 0 {
			continue
		}
		i := mix(p.key^c.seed, hashMul) & mask
		for c.cells[i].key != 0 {
			i = (i + 1) & mask
		}
		c.cells[i] = p
		c.spans[i] = oldSpans[k]
	}
}

// Reset empties the counter and keeps its memory, up to a bound.
func (c *Counter) Reset() {
	clear(c.cells) // spans of empty cells are never read
	c.used, c.words = 0, 0
	if c.arena = c.arena[:0]; cap(c.arena) > keptArena {
		c.arena = nil
	}
}

// Words returns how many words were counted.
func (c *Counter) Words() uint64 { return c.words }

// Distinct returns how many different words were counted.
func (c *Counter) Distinct() int { return c.used }

// All yields each word with its count, in no order. The word is valid until the
// next step of the iteration; the counter must not be changed meanwhile.
func (c *Counter) All() iter.Seq2[[]byte, uint64] {
	return func(yield func([]byte, uint64) bool) {
		var short [8]byte
		for k, p := range c.cells {
			if p.key == 0 {
				continue
			}
			word := short[:]
			if p.key&longKey != 0 {
				word = c.span(uint64(k))
			} else {
				binary.LittleEndian.PutUint64(short[:], p.key)
				word = word[:(bits.Len64(p.key)+7)/8]
			}
			if !yield(word, p.count) {
				return
			}
		}
	}
}

// Entry is a word and how often it occurs.
type Entry struct {
	Word  string
	Count uint64
}

// Top returns the n most frequent words, ties in the order of their bytes; all
// words for n <= 0.
func (c *Counter) Top(n int) []Entry {
	if n <= 0 || n > c.used {
		n = c.used
	}
	var top []Entry
	cut := func() {
		slices.SortFunc(top, func(a, b Entry) int {
			return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Word, b.Word))
		})
		top = top[:min(n, len(top))]
	}
	var least uint64 // a word that is rarer is not among the first n
	for w, count := range c.All() {
		if count < least {
			continue
		}
		if top = append(top, Entry{string(w), count}); len(top) == 2*n+64 {
			cut()
			least = top[n-1].Count
		}
	}
	cut()
	return top
}

// mix folds the 128-bit product, so that each bit of x reaches each of the result.
func mix(x, mul uint64) uint64 {
	hi, lo := bits.Mul64(x, mul)
	return hi ^ lo
}

func isLetter(b byte) bool { b |= 0x20; return 'a' <= b && b <= 'z' }

// load returns the eight bytes at i, the first in the lowest byte, with zeros
// for those past the end. It requires i <= len(b).
func load(b []byte, i int) uint64 {
	if i+8 <= len(b) {
		return binary.LittleEndian.Uint64(b[i:])
	}
	return loadTail(b[i:])
}

func loadTail(b []byte) (x uint64) {
	for k, v := range b {
		x |= uint64(v) << (8 * k)
	}
	return x
}

// letterMask has the top bit of each byte of x that is an ASCII letter.
func letterMask(x uint64) uint64 {
	// Setting 0x20 makes the upper case lower and no other byte a letter. Without
	// their top bits the bytes can be compared by additions that do not carry.
	z := (x | 0x20*ones) &^ high
	fromA := z + (0x80-'a')*ones
	pastZ := z + (0x80-'z'-1)*ones
	return fromA &^ pastZ &^ x & high
}

// letterBits has bit k set if the byte at i+k is there and an ASCII letter, for k < 64.
func letterBits(b []byte, i int) (m uint64) {
	if i+64 > len(b) {
		for k := 0; k < 64 && i+k < len(b); k += 8 {
			m |= gather(letterMask(load(b, i+k))) << k
		}
		return m
	}
	b = b[i : i+64]
	return gather(letterMask(binary.LittleEndian.Uint64(b))) |
		gather(letterMask(binary.LittleEndian.Uint64(b[8:])))<<8 |
		gather(letterMask(binary.LittleEndian.Uint64(b[16:])))<<16 |
		gather(letterMask(binary.LittleEndian.Uint64(b[24:])))<<24 |
		gather(letterMask(binary.LittleEndian.Uint64(b[32:])))<<32 |
		gather(letterMask(binary.LittleEndian.Uint64(b[40:])))<<40 |
		gather(letterMask(binary.LittleEndian.Uint64(b[48:])))<<48 |
		gather(letterMask(binary.LittleEndian.Uint64(b[56:])))<<56
}

// gather moves the top bits of the eight bytes of m into the lowest byte, in
// order; all other bits of m must be 0.
func gather(m uint64) uint64 { return m >> 7 * 0x0102040810204080 >> 56 }

// runLen returns how many letters x starts with.
func runLen(x uint64) int { return bits.TrailingZeros64(^letterMask(x)&high) >> 3 }
