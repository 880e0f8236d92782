// Package region is shmd's memory: it creates segments, seals and maps them, hands them to other
// processes, and takes them from others without trusting them. It knows nothing of what lies in them
// (see package protocol); everything is a []byte.
//
// # Segments
//
// A Segment is one memfd: anonymous memory with a descriptor, so that it has no name to leak or to
// collide, and holding the descriptor is the permission. Create makes it with every promise it will
// ever need: all its pages are there (a shortage is an error at creation and no SIGBUS later), its
// size is sealed, no other user can reopen it with more rights, exec closes the descriptor, and a
// forked child does not get the mapping. Open takes a descriptor from somebody else and refuses
// whatever lacks these promises.
//
// # Files
//
// A File is a file of the file system, mapped. No seal protects it: any program may cut it short, and
// then an access beyond its new end is a SIGBUS. File.View turns that into a *TruncatedError.
//
// This protection covers Go code that runs inside View, on the goroutine that View runs on. It cannot
// cover a raw C pointer or a NumPy array that was made from the bytes: their access is not Go's, and a
// truncated file kills the process. Replace a file that others have mapped by renaming a new one over
// it; never shorten it or write into it.
//
// # Lifetime
//
// Memory is never unmapped under a user. A user of a Segment holds a lease (Lease, Release), a user of
// a File is inside View; Close refuses new ones, wakes the waiting (OnClose), waits for the rest, then
// unmaps. A goroutine that holds a lease and calls Close waits for itself.
//
// The garbage collector does not see pointers into mapped memory. It does collect a Segment or File
// that nobody refers to any more, and unmaps it: that is a backstop against leaks, and the reason to
// keep the Segment as long as its bytes. Mapped counts what there is.
//
// # Who can do what with a segment
//
// Peers that hold a segment writable are one trust domain: each can overwrite all of it, and punch
// holes into it (which reads as zeros). Mode 0600 keeps other users from turning a read-only
// descriptor into a writable one; it does not keep the same user or root from it. What a process has
// mapped once cannot be taken from it.
//
// All functions and methods may be called from any number of goroutines.
package region
