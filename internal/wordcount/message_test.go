package wordcount

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func genPath() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		dir := rapid.SampledFrom([]string{"/", "/usr/lib/", "/usr/lib/go\n/", "/\xff\xfe/"}).Draw(t, "dir")
		return dir + string(rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "name"))
	})
}

func TestJobCodec(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		job := Job{Run: rapid.Uint64().Draw(t, "run"), ID: rapid.Uint32().Draw(t, "id")}
		for range rapid.IntRange(0, 20).Draw(t, "ranges") {
			job.Ranges = append(job.Ranges, Range{
				Path:   genPath().Draw(t, "path"),
				Offset: rapid.Int64Range(0, 1<<62).Draw(t, "offset"),
				Len:    rapid.Int64Range(0, 1<<62).Draw(t, "len"),
			})
		}
		msg := job.Encode(nil)
		got, err := DecodeJob(msg)
		if err != nil || !reflect.DeepEqual(got, job) {
			t.Fatalf("got %+v, %v\nwant %+v", got, err, job)
		}
		// A message that is cut off anywhere is refused, or is that of the ranges that are whole.
		cut := rapid.IntRange(0, len(msg)).Draw(t, "cut")
		switch got, err := DecodeJob(msg[:cut]); {
		case err != nil && !errors.Is(err, ErrMessage):
			t.Fatalf("cut at %d: %v", cut, err)
		case err == nil && len(got.Ranges) > 0 && !reflect.DeepEqual(got.Ranges, job.Ranges[:len(got.Ranges)]):
			t.Fatalf("cut at %d: %+v", cut, got)
		}
	})
}

func FuzzDecodeJob(f *testing.F) {
	f.Add((&Job{Run: 1, ID: 2, Ranges: []Range{{"/a/b", 0, 5}, {"/a/c\n", 5, 1 << 40}}}).Encode(nil))
	f.Add([]byte("wcJ1"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		job, err := DecodeJob(msg)
		if err != nil {
			if !errors.Is(err, ErrMessage) {
				t.Fatal(err)
			}
			return
		}
		again, err := DecodeJob(job.Encode(nil))
		if err != nil || !reflect.DeepEqual(again, job) {
			t.Fatalf("%+v, %v\nwas %+v", again, err, job)
		}
	})
}

// parts cuts the result of one attempt into messages for slots of a size.
func parts(slot int, a Attempt, errs []FileError, words *Counter) (msgs [][]byte) {
	stream := EncodeResult(nil, errs, words)
	for k := range Parts(len(stream), slot) {
		buf := make([]byte, slot)
		msgs = append(msgs, buf[:EncodePart(buf, a, stream, k)])
	}
	return msgs
}

// TestMerger feeds the parts of several attempts at several jobs in any order, with
// attempts that end in the middle, parts that come twice, and parts of another run.
// The sum must be that of one result of each job. All attempts at a job count the
// same here, as they do in a run on files that nobody changes.
func TestMerger(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		jobs := rapid.IntRange(1, 4).Draw(t, "jobs")
		slot := rapid.IntRange(resultHeader+1, resultHeader+200).Draw(t, "slot")
		m := NewMerger(7, jobs)
		var want Counter
		var wantErrs []FileError
		var wantBytes, wantAgain uint64
		var msgs [][]byte
		for job := range jobs {
			text := genText().Draw(t, "text")
			var words Counter
			words.Count(text, 0, len(text))
			want.Count(text, 0, len(text))
			errs := []FileError{{Path: fmt.Sprintf("/p\n%d", job), Text: "no"}}
			wantErrs = append(wantErrs, errs...)
			wantBytes += uint64(len(text))
			tries := rapid.IntRange(1, 4).Draw(t, "tries")
			wantAgain += uint64(tries - 1)
			for try := range tries {
				a := Attempt{Run: 7, ID: rapid.Uint64().Draw(t, "attempt")<<2 | uint64(try), Job: uint32(job), Deliveries: uint32(try), Bytes: uint64(len(text))}
				ps := parts(slot, a, errs, &words)
				if try < tries-1 { // killed somewhere, maybe after the last part
					ps = ps[:rapid.IntRange(1, len(ps)).Draw(t, "killed")]
				}
				msgs = append(msgs, ps...)
				a.Run = 8
				msgs = append(msgs, parts(slot, a, nil, &words)...)
			}
		}
		msgs = append(msgs, msgs[rapid.IntRange(0, len(msgs)-1).Draw(t, "twice")])
		done := 0
		for _, msg := range rapid.Permutation(msgs).Draw(t, "order") {
			msg = bytes.Clone(msg)
			d, err := m.Accept(msg)
			if err != nil {
				t.Fatal(err)
			}
			clear(msg) // it keeps no reference
			if d {
				done++
			}
		}
		if done != jobs || m.Left() != 0 || m.Bytes != wantBytes || m.Redelivered != wantAgain {
			t.Fatalf("%d jobs done, %d left, %d bytes, %d redelivered; want %d, 0, %d, %d", done, m.Left(), m.Bytes, m.Redelivered, jobs, wantBytes, wantAgain)
		}
		if got, want := table(&m.Words), table(&want); !maps.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
		slices.SortFunc(m.Errors, func(a, b FileError) int { return bytes.Compare([]byte(a.Path), []byte(b.Path)) })
		if !slices.Equal(m.Errors, wantErrs) {
			t.Fatalf("errors %v, want %v", m.Errors, wantErrs)
		}
	})
}

// TestMergerNeverMixes: two attempts that saw different text, with equal numbers of parts.
func TestMergerNeverMixes(t *testing.T) {
	count := func(text string) *Counter {
		var c Counter
		c.Count([]byte(text), 0, len(text))
		return &c
	}
	const slot = resultHeader + 8
	a := parts(slot, Attempt{Run: 1, ID: 10, Bytes: 1}, nil, count("aaaaaaaaaaaaaaaaaaaa"))
	b := parts(slot, Attempt{Run: 1, ID: 11, Bytes: 2}, nil, count("bbbbbbbbbbbbbbbbbbbb"))
	m := NewMerger(1, 1)
	for _, msg := range [][]byte{a[0], b[1], b[2], a[1], b[0], a[2]} {
		if _, err := m.Accept(msg); err != nil {
			t.Fatal(err)
		}
	}
	if got := fmt.Sprint(m.Words.Top(0), m.Bytes, m.Left(), m.Duplicates); got != "[{bbbbbbbbbbbbbbbbbbbb 1}] 2 0 1" {
		t.Error(got)
	}
}

func TestMergerRefuses(t *testing.T) {
	var words Counter
	words.Count([]byte("some words of some length"), 0, 25)
	ok := parts(1<<12, Attempt{Run: 1, ID: 5, Job: 0}, nil, &words)[0]
	change := func(at int, to byte) []byte {
		msg := bytes.Clone(ok)
		msg[at] = to
		return msg
	}
	two := parts(resultHeader+20, Attempt{Run: 1, ID: 6}, nil, &words)
	two[1][28]++ // bytes read
	for name, msgs := range map[string][][]byte{
		"empty":           {nil},
		"short":           {ok[:resultHeader-1]},
		"magic":           {change(0, 'x')},
		"job number":      {change(20, 1)},
		"part number":     {change(36, 1)},
		"no parts":        {change(40, 0)},
		"cut stream":      {ok[:len(ok)-1]},
		"longer stream":   {append(bytes.Clone(ok), 0)},
		"number of words": {change(resultHeader+1, 200)},
		"bytes of a word": {change(resultHeader+3, 'A')},
		"parts disagree":  {two[0], two[1]},
	} {
		t.Run(name, func(t *testing.T) {
			m := NewMerger(1, 1)
			var err error
			for _, msg := range msgs {
				_, err = m.Accept(msg)
			}
			if !errors.Is(err, ErrMessage) {
				t.Errorf("got %v, want ErrMessage", err)
			}
			if m.Words.Words() != 0 || m.Left() != 1 {
				t.Errorf("%d words were counted of a damaged result", m.Words.Words())
			}
			if done, err := m.Accept(ok); !done || err != nil || m.Words.Words() != 5 {
				t.Errorf("the good result afterwards: %v, %v, %d words", done, err, m.Words.Words())
			}
		})
	}
}

func FuzzAccept(f *testing.F) {
	var words Counter
	text := []byte("a word and another worrrrrrrrrrrrd")
	words.Count(text, 0, len(text))
	f.Add(parts(1<<10, Attempt{Run: 1, ID: 5}, []FileError{{"/x", "gone"}}, &words)[0])
	f.Add(parts(resultHeader+9, Attempt{Run: 1, ID: 5}, nil, &words)[0])
	f.Fuzz(func(t *testing.T, msg []byte) {
		m := NewMerger(1, 1)
		before := bytes.Clone(msg)
		done, err := m.Accept(msg)
		if err != nil && !errors.Is(err, ErrMessage) || done && m.Left() != 0 {
			t.Fatal(done, err, m.Left())
		}
		if !bytes.Equal(before, msg) {
			t.Fatal("Accept changed the message")
		}
		for w := range m.Words.All() {
			if plain := plainCount(w); len(plain) != 1 || plain[string(w)] != 1 {
				t.Fatalf("%q is no word", w)
			}
		}
	})
}
