package wordcount

import (
	"bytes"
	"cmp"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// plainCount is the count as one would write it first, and what the kernel must equal.
func plainCount(text []byte) map[string]uint64 {
	counts := map[string]uint64{}
	start := -1
	lower := bytes.ToLower
	for i := 0; i <= len(text); i++ {
		letter := i < len(text) && (text[i] >= 'a' && text[i] <= 'z' || text[i] >= 'A' && text[i] <= 'Z')
		switch {
		case letter && start < 0:
			start = i
		case !letter && start >= 0:
			counts[string(lower(text[start:i]))]++
			start = -1
		}
	}
	return counts
}

func table(c *Counter) map[string]uint64 {
	counts := map[string]uint64{}
	for w, n := range c.All() {
		if _, twice := counts[string(w)]; twice {
			panic(fmt.Sprintf("word %q has two cells", w))
		}
		counts[string(w)] = n
	}
	return counts
}

// checkCount counts text in the given ranges and compares with plainCount.
func checkCount(t interface{ Fatalf(string, ...any) }, c *Counter, text []byte, cuts []int) {
	c.Reset()
	from := 0
	for _, to := range append(cuts, len(text)) {
		c.Count(text, from, to)
		from = to
	}
	want := plainCount(text)
	if got := table(c); !maps.Equal(got, want) {
		t.Fatalf("text %q cut at %v:\n got %v\nwant %v", text, cuts, got, want)
	}
	var words uint64
	for _, n := range want {
		words += n
	}
	if c.Words() != words || c.Distinct() != len(want) {
		t.Fatalf("text %q: %d words, %d distinct; want %d, %d", text, c.Words(), c.Distinct(), words, len(want))
	}
}

func TestLetterClass(t *testing.T) {
	for b := range 256 {
		want := b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
		if isLetter(byte(b)) != want {
			t.Errorf("isLetter(%#x) = %v", b, !want)
		}
		for at := range 8 {
			for _, other := range []uint64{0, ^uint64(0), 'z' * ones, '[' * ones, 'a' * ones, '`' * ones} {
				x := other&^(0xff<<(8*at)) | uint64(b)<<(8*at)
				if got := letterMask(x)>>(8*at+7)&1 == 1; got != want {
					t.Errorf("letterMask(%#016x) byte %d = %v", x, at, got)
				}
			}
		}
	}
}

// TestEveryCut cuts texts at every pair of places.
func TestEveryCut(t *testing.T) {
	var c Counter
	for _, text := range []string{
		"", "a", "A", " ", "ab cd", "abcdefgh", "abcdefg h", "abcdefghi abcdefgh ABCDEFGHI", "\xc3\xa9t\xc3\xa9 ete",
		"abcdefghijklmnopqrstuvwxyz", "a.b.c.d.e.f.g.h.i.j", "@[`{AZaz@[`{", "      x       yy      zzz",
	} {
		for a := range len(text) + 1 {
			for b := a; b <= len(text); b++ {
				checkCount(t, &c, []byte(text), []int{a, b})
			}
		}
	}
}

func genText() *rapid.Generator[[]byte] {
	return rapid.Custom(func(t *rapid.T) []byte {
		alphabet := rapid.SampledFrom([]string{
			"ab ", "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ     \n\t.,()", "aB\x00\xff\xe1", "aaaaaaaaaaaaaaab@[`{",
		}).Draw(t, "alphabet")
		text := rapid.SliceOfN(rapid.SampledFrom([]byte(alphabet)), 0, 300).Draw(t, "text")
		if rapid.Bool().Draw(t, "long") {
			run := bytes.Repeat([]byte("Q"), rapid.IntRange(1, 5000).Draw(t, "run"))
			at := rapid.IntRange(0, len(text)).Draw(t, "at")
			text = append(text[:at:at], append(run, text[at:]...)...)
		}
		return text
	})
}

func genCuts(t *rapid.T, n int) []int {
	cuts := rapid.SliceOfN(rapid.IntRange(0, n), 0, 6).Draw(t, "cuts")
	for i := range cuts { // ascending
		for j := i; j > 0 && cuts[j] < cuts[j-1]; j-- {
			cuts[j], cuts[j-1] = cuts[j-1], cuts[j]
		}
	}
	return cuts
}

func TestCountEqualsPlainCount(t *testing.T) {
	var c Counter // one for all, so that Reset is tested too
	rapid.Check(t, func(t *rapid.T) {
		text := genText().Draw(t, "text")
		checkCount(t, &c, text, genCuts(t, len(text)))
	})
}

func FuzzCount(f *testing.F) {
	f.Add([]byte("Hello, world; helloworlds HELLOWORLDS"), uint16(3), uint16(17))
	f.Add(bytes.Repeat([]byte("x"), 1000), uint16(8), uint16(900))
	f.Fuzz(func(t *testing.T, text []byte, a, b uint16) {
		x, y := min(int(a), len(text)), min(int(b), len(text))
		var c Counter
		checkCount(t, &c, text, []int{min(x, y), max(x, y)})
	})
}

// TestAddEqualsCount: Add finds the cells that Count made, and the other way round.
func TestAddEqualsCount(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := genText().Draw(t, "text")
		var once, twice, merged Counter
		once.Count(text, 0, len(text))
		for range 2 {
			twice.Count(text, 0, len(text))
		}
		merged.Count(text, 0, len(text))
		for w, n := range once.All() {
			merged.Add(w, n)
		}
		if got, want := table(&merged), table(&twice); !maps.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	})
}

// TestGrowth has more words than the first table, short and long, twice each.
func TestGrowth(t *testing.T) {
	const n = 100_000
	var text bytes.Buffer
	for range 2 {
		for i := range n {
			for x := i; ; x /= 26 {
				text.WriteByte('a' + byte(x%26))
				if x < 26 {
					break
				}
			}
			if i%3 == 0 {
				text.WriteString("longerword")
			}
			text.WriteByte('\n')
		}
	}
	var c Counter
	checkCount(t, &c, text.Bytes(), nil)
	if c.Reset(); c.Words() != 0 || c.Distinct() != 0 || len(table(&c)) != 0 {
		t.Fatal("not empty after Reset")
	}
}

func TestTop(t *testing.T) {
	var c Counter
	text := []byte("b b b a a a c c longestwords longestwords longestwords d")
	c.Count(text, 0, len(text))
	got := fmt.Sprint(c.Top(4), len(c.Top(0)), len(c.Top(100)))
	if want := "[{a 3} {b 3} {longestwords 3} {c 2}] 5 5"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestTopEqualsSort: the first n of many with equal counts.
func TestTopEqualsSort(t *testing.T) {
	var c Counter
	for i := range 2000 {
		c.Add(fmt.Appendf(nil, "w%c%c%c", 'a'+i%26, 'a'+i/26%26, 'a'+i/676), uint64(1+i*7919%50))
	}
	all := c.Top(0)
	if len(all) != c.Distinct() || !slices.IsSortedFunc(all, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Word, b.Word))
	}) {
		t.Fatal("all words are not in order")
	}
	for _, n := range []int{1, 2, 10, 500, 1999, 2000, 3000} {
		if got := c.Top(n); !slices.Equal(got, all[:min(n, len(all))]) {
			t.Errorf("top %d: %v", n, got)
		}
	}
}

// sourceText is real text: files of the Go installation, up to 16 MiB.
func sourceText(tb testing.TB) []byte {
	var text []byte
	err := filepath.WalkDir(filepath.Join(runtime.GOROOT(), "src"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if len(text) > 16<<20 {
			return fs.SkipAll
		}
		b, err := os.ReadFile(path)
		text = append(append(text, b...), '\n')
		return err
	})
	if err != nil || len(text) == 0 {
		tb.Fatalf("read the sources of the Go installation: %d bytes, %v", len(text), err)
	}
	return text
}

func TestCountSourceText(t *testing.T) {
	text := sourceText(t)
	var c Counter
	checkCount(t, &c, text, []int{1 << 20, 3<<20 + 1, 5<<20 + 7})
}

// BenchmarkCount counts real text in jobs of 1 MiB, as a worker does.
func BenchmarkCount(b *testing.B) {
	text := sourceText(b)
	b.Run("kernel", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		var c Counter
		for b.Loop() {
			for from := 0; from < len(text); from += JobBytes {
				c.Reset()
				c.Count(text, from, min(from+JobBytes, len(text)))
			}
		}
	})
	b.Run("map", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			for from := 0; from < len(text); from += JobBytes {
				mapCount(text[from:min(from+JobBytes, len(text))])
			}
		}
	})
}

// mapCount is the fast form of a plain Go count: one map[string]*int, no
// allocation for a word that is known.
func mapCount(text []byte) map[string]*int {
	counts := map[string]*int{}
	var word []byte
	for i := 0; i <= len(text); i++ {
		if i < len(text) && isLetter(text[i]) {
			word = append(word, text[i]|0x20)
		} else if len(word) > 0 {
			if p := counts[string(word)]; p != nil {
				*p++
			} else {
				n := 1
				counts[string(word)] = &n
			}
			word = word[:0]
		}
	}
	return counts
}
