// Package filter is the shim that makes a worker of any program that reads lines and writes lines: it holds the attachment, the
// leases and the pipes, so the filter itself needs to know nothing. docs/filters.md describes it for users.
//
// Two goroutines move the lines. The feeder leases a message, notes it as in flight, and writes it to the filter. The collector
// reads a line, commits it to the other channel, and acks the message that has been in flight for longest: lines answer messages in
// order. What a death leaves, between any two of these steps:
//
//	leased               the lease is given back; the filter has seen nothing
//	noted, written       the same; a filter that has worked on it has worked for nothing
//	the filter answered  the same; the answer is lost with the pipe
//	committed            the lease is given back: the message is answered twice
//	acked                done
//
// So no message is lost, and only one whose answer was committed and whose ack was not can be answered twice. With ack = "written"
// the ack follows the write, and what the filter has not finished when it dies is lost.
package filter
