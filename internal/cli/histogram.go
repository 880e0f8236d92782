package cli

import (
	"encoding/json"
	"fmt"
	"math"
	"math/bits"
	"strings"
	"time"
)

// A histogram counts times in buckets that grow with them, so that it has a fixed size and each time is kept to one part in 128. The zero
// value is empty.
type histogram struct {
	Count    int64
	Max      int64
	Buckets  map[int]int64 `json:",omitempty"` // in JSON only
	counters []int64
}

// subBuckets is the number of buckets from one power of two to the next.
const (
	subBucketBits = 7
	subBuckets    = 1 << subBucketBits
)

// bucketOf returns the bucket of a time in ns; bucketTop the largest time in it.
func bucketOf(ns int64) int {
	v := uint64(max(ns, 0))
	shift := max(bits.Len64(v)-subBucketBits-1, 0)
	return shift<<subBucketBits + int(v>>shift)
}

func bucketTop(i int) int64 {
	shift := max(i>>subBucketBits-1, 0)
	return (int64(i-shift<<subBucketBits)+1)<<shift - 1
}

func (h *histogram) add(ns int64) {
	if h.counters == nil {
		h.counters = make([]int64, bucketOf(1<<62)+1)
	}
	h.counters[bucketOf(ns)]++
	h.Count++
	h.Max = max(h.Max, ns)
}

// MarshalJSON writes the buckets that have something.
func (h *histogram) MarshalJSON() ([]byte, error) {
	type plainHistogram histogram
	p := plainHistogram{Count: h.Count, Max: h.Max, Buckets: map[int]int64{}}
	for i, n := range h.counters {
		if n > 0 {
			p.Buckets[i] = n
		}
	}
	return json.Marshal(p)
}

// UnmarshalJSON reads them again.
func (h *histogram) UnmarshalJSON(b []byte) error {
	type plainHistogram histogram
	var p plainHistogram
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	p.counters = make([]int64, bucketOf(1<<62)+1)
	for i, n := range p.Buckets {
		if i < 0 || i >= len(p.counters) {
			return fmt.Errorf("no bucket %d", i)
		}
		p.counters[i] = n
	}
	*h = histogram(p)
	h.Buckets = nil
	return nil
}

// quantile returns the time that a part q of all does not exceed.
func (h *histogram) quantile(q float64) int64 {
	want, sum := int64(q*float64(h.Count)+0.5), int64(0)
	for i, n := range h.counters {
		if sum += n; n > 0 && sum >= want {
			return min(bucketTop(i), h.Max)
		}
	}
	return h.Max
}

// A histogramRow is a line of the picture: times above From up to To.
type histogramRow struct {
	From  int64 `json:"from_ns"`
	To    int64 `json:"to_ns"`
	Count int64 `json:"count"`
}

// mostRows is how many lines a picture has at most, beside the one for the longest times.
const mostRows = 18

// rows divides the times, twelve rows a power of ten, the last one for all that is longer than the picture is high.
func (h *histogram) rows() []histogramRow {
	var rows []histogramRow
	from, steps := int64(0), []int64{100, 120, 150, 180, 220, 270, 330, 390, 470, 560, 680, 820} // a ratio of 1.2 each
	next := func(k int) int64 {
		t := steps[k%len(steps)]
		for range k / len(steps) {
			if t > math.MaxInt64/10 {
				return math.MaxInt64
			}
			t *= 10
		}
		return t / 10
	}
	last := h.quantile(0.999)
	for k, i := 0, 0; i < len(h.counters); k++ {
		to := next(k)
		row := histogramRow{From: from, To: to}
		open := len(rows) == mostRows || to > last && len(rows) > 0 && from >= last
		for ; i < len(h.counters) && (open || bucketTop(i) <= to); i++ {
			row.Count += h.counters[i]
		}
		if open {
			row.To = h.Max
		}
		if from = to; row.Count > 0 || len(rows) > 0 {
			rows = append(rows, row)
		}
	}
	for len(rows) > 0 && rows[len(rows)-1].Count == 0 {
		rows = rows[:len(rows)-1]
	}
	return rows
}

// picture draws a histogram for a terminal of 80 columns.
func (h *histogram) picture(paint func(c color, text string) string) string {
	const width = 44
	rows, most := h.rows(), int64(1)
	for _, r := range rows {
		most = max(most, r.Count)
	}
	var b strings.Builder
	for _, r := range rows {
		bar := strings.Repeat("#", int((r.Count*width+most/2)/most))
		if bar == "" && r.Count > 0 {
			bar = "."
		}
		if bar != "" {
			bar = "  " + paint(green, bar)
		}
		fmt.Fprintf(&b, "  %9s - %-9s %7s%%%s\n", took(time.Duration(r.From)), took(time.Duration(r.To)), percent(float64(r.Count)/float64(h.Count)), bar)
	}
	return b.String()
}

// percent prints a part of all with three digits, and none for nothing.
func percent(part float64) string {
	switch {
	case part == 0:
		return "0"
	case part < 0.0001:
		return "<0.01"
	}
	return fmt.Sprintf("%.2f", part*100)
}
