package config

import (
	"fmt"
	"math"
	"math/bits"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// units are the sizes that a configuration can name, largest first.
var units = []struct {
	name  string
	shift uint
}{{"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}, {"B", 0}}

// ParseSize reads a size such as "64B", "4KiB" or "1MiB": digits and a unit, nothing between.
func ParseSize(s string) (int64, error) {
	digits := strings.TrimRight(s, "BKMGTib")
	for _, u := range units {
		if s[len(digits):] != u.name {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 64) // knows no sign and no underscore
		if err != nil {
			break
		}
		if n > math.MaxInt64>>u.shift {
			return 0, fmt.Errorf("%q is more than 63 bits of bytes; use a smaller size", s)
		}
		return int64(n << u.shift), nil
	}
	if better := guessSize(s); better != "" {
		return 0, fmt.Errorf("%q is not a size; did you mean %q?", s, better)
	}
	return 0, fmt.Errorf("%q is not a size; write a whole number and B, KiB, MiB, GiB or TiB, as in \"4KiB\"", s)
}

// guessSize returns what was meant by "4 kib", "4K", "4096", or "".
func guessSize(s string) string {
	s = strings.ToLower(strings.ReplaceAll(strings.ReplaceAll(s, " ", ""), "_", ""))
	digits := strings.TrimRight(s, "bkmgtiytes")
	n, err := strconv.ParseUint(digits, 10, 62)
	if err != nil {
		return ""
	}
	switch strings.TrimPrefix(s, digits) {
	case "", "b", "byte", "bytes":
		return fmt.Sprintf("%dB", n)
	case "k", "kb", "ki", "kib":
		return fmt.Sprintf("%dKiB", n)
	case "m", "mb", "mi", "mib":
		return fmt.Sprintf("%dMiB", n)
	case "g", "gb", "gi", "gib":
		return fmt.Sprintf("%dGiB", n)
	case "t", "tb", "ti", "tib":
		return fmt.Sprintf("%dTiB", n)
	}
	return ""
}

// FormatSize writes n bytes in the largest unit that needs no fraction; ParseSize reads it back.
// n is at least 0.
func FormatSize(n int64) string {
	for _, u := range units {
		if n>>u.shift<<u.shift == n && n>>u.shift > 0 {
			return strconv.FormatInt(n>>u.shift, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10) + "B"
}

// roughSize writes n bytes for people: two digits or more, the rest cut off.
func roughSize(n int64) string {
	for _, u := range units {
		if n >= 10<<u.shift {
			return strconv.FormatInt(n>>u.shift, 10) + u.name
		}
	}
	return FormatSize(n)
}

// ParseDuration reads a Go duration such as "5s", "100ms" or "1h30m", not below 0.
func ParseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		return 0, DurationError(s)
	case d < 0:
		return 0, fmt.Errorf("%q is below zero; use a positive duration", s)
	}
	return d, nil
}

// durationForm is what time.ParseDuration reads, if it is not too long.
var durationForm = regexp.MustCompile(`^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)(([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))*$`)

// DurationError says what is wrong with s, which time.ParseDuration does not read: whose error is the same for what is too long and for
// what is no duration.
func DurationError(s string) error {
	if durationForm.MatchString(s) {
		return fmt.Errorf("%q is too long; a duration has at most %dh, 292 years", s, math.MaxInt64/time.Hour)
	}
	if d, err := time.ParseDuration(s + "s"); err == nil && d >= 0 {
		return fmt.Errorf("%q has no unit; did you mean %q?", s, s+"s")
	}
	return fmt.Errorf("%q is not a duration; write a number and ms, s, m or h, as in \"5s\" or \"1m30s\"", s)
}

// formatDuration writes d as people write it in the file: "1m", not "1m0s".
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func isPowerOfTwo(n int64) bool { return n > 0 && n&(n-1) == 0 }

// nearestPowers returns the two powers of two around n, which is positive and none itself.
func nearestPowers(n int64) (int64, int64) {
	below := int64(1) << (bits.Len64(uint64(n)) - 1)
	return below, 2 * below
}
