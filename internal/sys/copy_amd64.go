package sys

import "golang.org/x/sys/cpu"

var vectors = cpu.X86.HasAVX512F

// copyBlocks copies n bytes, a multiple of copyBlock and not 0. The two do not overlap.
//
//go:noescape
func copyBlocks(to, from *byte, n int)
