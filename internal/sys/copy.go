//go:build amd64 || arm64

package sys

// Copy is copy for a KiB and more that lies in the cache: it uses the widest registers that the processor has, which Go's does not, and so takes
// three quarters of the time from memory that begins on a line.
func Copy(to, from []byte) int {
	n := min(len(to), len(from))
	wide := 0
	if vectors {
		if wide = n &^ (copyBlock - 1); wide > 0 {
			copyBlocks(&to[0], &from[0], wide)
		}
	}
	return wide + copy(to[wide:n], from[wide:])
}

const copyBlock = 256 // bytes
