//go:build !race

package sys

const gathers = true

// gather8 and gather64 are Gather8 and Gather64. n is not 0.
//
//go:noescape
func gather8(to *byte, msgs *[]byte, n int) int

//go:noescape
func gather64(to *byte, msgs *[]byte, n int) int
