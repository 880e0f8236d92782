// Package control acts on a region through its memory: it finds the region's segments in living processes when no
// daemon hands them out, resolves the names of workers and groups, and stops workers. shmctl uses it, and a starting
// daemon that finds what a dead predecessor left running.
//
// # Whom it trusts
//
// Any process can hold a memfd of any name. One is taken for a segment of a region only if its inode belongs to the
// user who owns the region's runtime directory, and its header is that of the region. The other segments are those
// whose inodes the roster's directory names.
//
// # Whom it signals
//
// Processes are known by pidfd, opened first; then the start time is compared with the roster's, and before a signal
// the process must still hold memory of the region, by descriptor or by mapping. A pid that has come to mean another
// process is never signalled.
package control
