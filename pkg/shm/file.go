package shm

import "github.com/shmd/shmd/pkg/region"

// File is a file mapped read-only. All processes that map it share its frames: see region.File.
type File = region.File

// TruncatedError says that a file became shorter while it was read.
type TruncatedError = region.TruncatedError

// OpenFile maps a file read-only. Read it with View or ViewRange: if another program truncates the file meanwhile the
// call returns a *TruncatedError, and the process lives on.
func OpenFile(path string) (*File, error) { return region.OpenFile(path) }
