package cli

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// Quantiles are those of the sorted times, to one part in 100; rows have every time once; a way through JSON changes nothing.
func TestHistogram(t *testing.T) {
	for name, draw := range map[string]func(r *rand.Rand) int64{
		"one value": func(*rand.Rand) int64 { return 777 },
		"nothing":   func(*rand.Rand) int64 { return 0 },
		"narrow":    func(r *rand.Rand) int64 { return 1000 + r.Int64N(300) },
		"wide":      func(r *rand.Rand) int64 { return r.Int64N(1 << r.IntN(40)) },
		"huge":      func(r *rand.Rand) int64 { return 1<<61 + r.Int64N(1<<61) },
	} {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 2))
			h := &histogram{}
			var all []int64
			for range 10000 {
				v := draw(r)
				all = append(all, v)
				h.add(v)
			}
			slices.Sort(all)
			b, err := json.Marshal(h)
			if err != nil {
				t.Fatal(err)
			}
			var again histogram
			if err := json.Unmarshal(b, &again); err != nil {
				t.Fatal(err)
			}
			for _, h := range []*histogram{h, &again} {
				if h.Count != 10000 || h.Max != all[len(all)-1] {
					t.Errorf("%d times, the longest %d; want 10000, %d", h.Count, h.Max, all[len(all)-1])
				}
				for _, q := range []float64{0.5, 0.9, 0.99, 0.999, 1} {
					want, got := all[int(q*float64(len(all)))-1], h.quantile(q)
					if got < want || got > want+want/100+1 {
						t.Errorf("quantile %v: %d, want %d", q, got, want)
					}
				}
				sum, to := int64(0), int64(-1)
				rows := h.rows()
				for i, r := range rows {
					if sum += r.Count; i > 0 && r.From != to || r.To < r.From {
						t.Errorf("row %d of %+v", i, rows)
					}
					to = r.To
				}
				if sum != 10000 || len(rows) > mostRows+1 {
					t.Errorf("%d times in %d rows", sum, len(rows))
				}
				picture := h.picture(func(_ color, text string) string { return text })
				for line := range strings.Lines(picture) {
					if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 80 && name != "huge" { // those are years
						t.Errorf("%d columns: %q", n, line)
					}
				}
			}
		})
	}
	if (&histogram{}).picture(nil) != "" || (&histogram{}).quantile(0.5) != 0 {
		t.Error("an empty one has a picture")
	}
	for i := range bucketOf(1 << 62) {
		if got := bucketOf(bucketTop(i)); got != i || bucketOf(bucketTop(i)+1) != i+1 {
			t.Fatalf("bucket %d ends at %d, which is in %d", i, bucketTop(i), got)
		}
	}
}
