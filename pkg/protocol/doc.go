// Package protocol says what lies in shmd's memory and works on it: segment headers, the roster, the
// command segment, group segments, the slot machine of queues, and the log ring.
//
// Everything here works on a caller's []byte, whose first byte must be 8-byte aligned. Mapped memory, the heap
// (race detector, fuzzers) and golden files drive the same code. The package maps nothing, opens nothing and
// logs nothing; the only thing it does beside loads and stores is to wake futex sleepers.
//
// The layout is generated from internal/genlayout/layout.go; docs/layout.md shows it byte by byte, docs/queue.md
// argues the slot machine.
//
// Whatever is read from the memory may have been written by a crashed or hostile peer. Each shared word is
// loaded once into a local variable, checked, then used. Damage is reported as a *CorruptError that names the
// segment and the offset; it never panics and never loops without bound.
package protocol
