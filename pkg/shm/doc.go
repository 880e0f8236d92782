// Package shm is what a Go program imports to be a worker of a shmd region, or an outsider that exchanges messages with one.
//
//	r, err := shm.Attach(ctx, shm.Options{})       // a worker: everything comes from the environment
//	jobs, err := r.Queue("jobs")
//	r.Ready()
//	for {
//		m, err := jobs.Receive(ctx)            // ends with ErrQuit when shmctl stop flips the quit flag
//		if err != nil {
//			break
//		}
//		work(m.Bytes())                        // in place: no copy
//		m.Ack()                                // a death before this line: another worker gets the message
//	}
//	r.Close()
//
// A message goes through memory that both ends map; neither the daemon nor, while both ends are busy, the kernel
// takes part. A process that is killed at any instruction loses no message and blocks nobody: docs/queue.md says why.
//
// # Concurrency
//
// Everything but Loan and Message may be used by many goroutines at once. Waiting costs no thread per goroutine.
//
// # Contexts
//
// A context bounds how long a call waits. A call that need not wait, since a message or a free slot is there, does not look at it; the loops
// (Messages, Values, Serve) look at it in each turn. The quit flag ends a receive also when messages are there.
//
// # Validity
//
// Bytes of a Loan are valid until Commit or Abort, bytes of a Message until Ack or Nack. Close waits for both, so end them first.
//
// # Trust
//
// Processes that hold a channel writable can write nonsense into it. That gives errors here, never a crash or an endless loop;
// but the bytes of a message may change while they are read if a peer is hostile. Copy (ReceiveCopy) before you validate.
package shm
