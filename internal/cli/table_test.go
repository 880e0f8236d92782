package cli

import (
	"testing"
	"time"
)

func TestTexts(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{took(0), "0 ns"}, {took(999), "999 ns"}, {took(8310), "8.31 µs"}, {took(12345678), "12.3 ms"}, {took(123456789), "123 ms"},
		{took(1250 * time.Millisecond), "1.25 s"}, {took(75 * time.Second), "1m15s"},
		{age(-time.Second), "0s"}, {age(12 * time.Second), "12s"}, {age(429 * time.Second), "7m9s"}, {age(7500 * time.Second), "2h5m"}, {age(76 * time.Hour), "3d4h"},
		{size(0), "0 B"}, {size(1023), "1023 B"}, {size(4096), "4 KiB"}, {size(1 << 20 * 3 / 2), "1.5 MiB"}, {size(1 << 46), "64 TiB"}, {size(1<<63 - 1), "8 EiB"},
		{count(1, "worker"), "1 worker"}, {count(0, "worker"), "0 workers"}, {count(2, "process"), "2 processes"},
		{printable("größe\x07\x1b"), "größe\uFFFD\uFFFD"},
	} {
		if c.got != c.want {
			t.Errorf("%q, not %q", c.got, c.want)
		}
	}
}
