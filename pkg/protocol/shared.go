//go:build !race

package protocol

import "github.com/shmd/shmd/internal/sys"

// copyShared copies bytes that another process may be changing, or to where another process may be reading: the reader finds out afterwards
// and throws away what it has. docs/latest.md says why that is no harm.
func copyShared(to, from []byte) {
	if len(from) >= wideCopy {
		sys.Copy(to, from)
		return
	}
	copy(to, from)
}

// wideCopy is from where on sys.Copy pays.
const wideCopy = 1024
