//go:build !race

package protocol

// copyShared copies bytes that another process may be changing, or to where another process may be reading: the reader finds out afterwards
// and throws away what it has. docs/latest.md says why that is no harm.
func copyShared(to, from []byte) { copy(to, from) }
