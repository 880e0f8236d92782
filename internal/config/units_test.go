package config

import (
	"math"
	"math/bits"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestSizesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.OneOf(
			rapid.Int64Range(0, math.MaxInt64),
			rapid.Custom(func(t *rapid.T) int64 {
				return rapid.Int64Range(0, math.MaxInt64>>40).Draw(t, "n") << rapid.SampledFrom([]int{0, 10, 20, 30, 40}).Draw(t, "unit")
			}),
		).Draw(t, "size")
		got, err := ParseSize(FormatSize(n))
		if err != nil || got != n {
			t.Fatalf("%d is written %s and read %d, %v", n, FormatSize(n), got, err)
		}
	})
}

// Whatever is accepted is written again as something that reads the same.
func TestSizesAreStrict(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringMatching(`[-+ _]?[0-9]{0,20}[ .]?[BKMGTibkm]{0,4}`).Draw(t, "s")
		n, err := ParseSize(s)
		if err != nil {
			return
		}
		if n < 0 || s[0] < '0' || s[0] > '9' || s[len(s)-1] != 'B' {
			t.Fatalf("%q gives %d", s, n)
		}
		if again, err := ParseSize(FormatSize(n)); err != nil || again != n {
			t.Fatalf("%q: %d, %d, %v", s, n, again, err)
		}
	})
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{
		"0B": 0, "64B": 64, "4KiB": 4096, "1MiB": 1 << 20, "3GiB": 3 << 30, "2TiB": 2 << 40, "007B": 7,
		"9223372036854775807B": math.MaxInt64, "8388607TiB": 8388607 << 40,
	} {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("%s: got %d, %v", s, got, err)
		}
	}
	for s, want := range map[string]string{
		"":                     `"" is not a size; write a whole number and B, KiB, MiB, GiB or TiB, as in "4KiB"`,
		"B":                    `"B" is not a size; write a whole number and B, KiB, MiB, GiB or TiB, as in "4KiB"`,
		"4":                    `"4" is not a size; did you mean "4B"?`,
		"4 KiB":                `"4 KiB" is not a size; did you mean "4KiB"?`,
		"4kb":                  `"4kb" is not a size; did you mean "4KiB"?`,
		"1 Mbyte":              `"1 Mbyte" is not a size; write a whole number and B, KiB, MiB, GiB or TiB, as in "4KiB"`,
		"64 bytes":             `"64 bytes" is not a size; did you mean "64B"?`,
		"+4KiB":                `"+4KiB" is not a size; write a whole number and B, KiB, MiB, GiB or TiB, as in "4KiB"`,
		"4KiBB":                `"4KiBB" is not a size; write a whole number and B, KiB, MiB, GiB or TiB, as in "4KiB"`,
		"9223372036854775808B": `"9223372036854775808B" is more than 63 bits of bytes; use a smaller size`,
		"8388608TiB":           `"8388608TiB" is more than 63 bits of bytes; use a smaller size`,
	} {
		if _, err := ParseSize(s); err == nil || err.Error() != want {
			t.Errorf("%q: got %v", s, err)
		}
	}
}

func TestFormatSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0B", 1: "1B", 1000: "1000B", 1024: "1KiB", 1536: "1536B", 3 << 20: "3MiB", 1 << 50: "1024TiB"} {
		if got := FormatSize(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0B", 9000: "9000B", 12345: "12KiB", 123 << 20: "123MiB"} {
		if got := roughSize(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}

func TestDurationsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.OneOf(
			rapid.Int64Range(0, math.MaxInt64),
			rapid.Map(rapid.Int64Range(0, 1e6), func(n int64) int64 { return n * int64(time.Second) }),
			rapid.Map(rapid.Int64Range(0, 1e6), func(n int64) int64 { return n * int64(time.Minute) }),
		).Draw(t, "d"))
		for _, s := range []string{d.String(), formatDuration(d)} {
			if got, err := ParseDuration(s); err != nil || got != d {
				t.Fatalf("%d is written %s and read %d, %v", d, s, got, err)
			}
		}
	})
}

// Too long is told from no duration at all; time.ParseDuration has one error for both.
func TestDurationErrors(t *testing.T) {
	for s, want := range map[string]string{
		"":                          `"" is not a duration; write a number and ms, s, m or h, as in "5s" or "1m30s"`,
		"soon":                      `"soon" is not a duration; write a number and ms, s, m or h, as in "5s" or "1m30s"`,
		"5d":                        `"5d" is not a duration; write a number and ms, s, m or h, as in "5s" or "1m30s"`,
		"5 s":                       `"5 s" is not a duration; write a number and ms, s, m or h, as in "5s" or "1m30s"`,
		"99999999999999999999":      `"99999999999999999999" is not a duration; write a number and ms, s, m or h, as in "5s" or "1m30s"`,
		"-5":                        `"-5" is not a duration; write a number and ms, s, m or h, as in "5s" or "1m30s"`,
		"5":                         `"5" has no unit; did you mean "5s"?`,
		"999999h99":                 `"999999h99" has no unit; did you mean "999999h99s"?`,
		"2562048h":                  `"2562048h" is too long; a duration has at most 2562047h, 292 years`,
		"300000000h":                `"300000000h" is too long; a duration has at most 2562047h, 292 years`,
		"2562047h.5h40m":            `"2562047h.5h40m" is too long; a duration has at most 2562047h, 292 years`,
		"999999999999999999999.5ns": `"999999999999999999999.5ns" is too long; a duration has at most 2562047h, 292 years`,
		"-5s":                       `"-5s" is below zero; use a positive duration`,
	} {
		if _, err := ParseDuration(s); err == nil || err.Error() != want {
			t.Errorf("%q: got %v", s, err)
		}
	}
}

func TestNearestPowers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(1, 1<<62-1).Filter(func(n int64) bool { return !isPowerOfTwo(n) }).Draw(t, "n")
		a, b := nearestPowers(n)
		if bits.OnesCount64(uint64(a)) != 1 || b != 2*a || n < a || n > b {
			t.Fatalf("%d is not between %d and %d", n, a, b)
		}
	})
}
