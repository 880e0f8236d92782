package protocol

import (
	"errors"
	"fmt"
)

// Errors of attaching to a segment: ReadHeader and Check.
var (
	// ErrNotReady: the segment exists but its creator has not published the header (or died before it did).
	ErrNotReady = errors.New("segment is not ready: its creator has not published the header; try again, or start the region anew")
	// ErrForeign: the first bytes are not those of a shmd segment.
	ErrForeign = errors.New("not a shmd segment: the magic number is another program's")
	// ErrOtherBoot: the segment names another boot of the kernel; memory does not outlive a boot.
	ErrOtherBoot = errors.New("segment was made before the last boot: start the region anew")
	// ErrGeneration: the segment belongs to another region, or to an earlier one of the same name.
	ErrGeneration = errors.New("segment belongs to another generation of the region: attach again")
	// ErrTooShort: the memory ends before what its header describes.
	ErrTooShort = errors.New("segment is shorter than its header says")
)

// Errors of operations on channels.
var (
	// ErrFull: no slot is free for the next position.
	ErrFull = errors.New("channel is full")
	// ErrEmpty: no message is ready.
	ErrEmpty error = empty
	// ErrLane: the queue has one producer and one consumer, and only its Lane knows where they are.
	ErrLane = errors.New("queue has one producer and one consumer: send and receive through its Lane")
	// ErrLost: the loan or lease is no longer the caller's: it was ended before, or a repair took it because
	// the attachment had been declared dead.
	ErrLost = errors.New("slot is no longer held: already committed, acked or given back, or taken by a repair")
	// ErrNoDeadLetters: the message cannot become a dead letter.
	ErrNoDeadLetters = errors.New("the channel has no dead-letter channel: give it a max_deliveries above 0")
)

// empty is ErrEmpty with a type of its own: Empty compares it without a call, which a loop that looks for messages with cold caches would feel.
var empty = &sentinel{"channel is empty"}

type sentinel struct{ text string }

func (s *sentinel) Error() string { return s.text }

// Empty reports whether err is ErrEmpty itself.
func Empty(err error) bool {
	s, ok := err.(*sentinel)
	return ok && s == empty
}

// Errors of latest values, beside those.
var (
	// ErrStale: a compare-and-set was for another version than the present one.
	ErrStale = errors.New("the value has another version")
	// ErrOvertaken: writers overwrote every version before it could be read, as often as Get and View try.
	ErrOvertaken = errors.New("the value was overwritten each time before it could be read whole: keep more versions (slots), or read faster")
)

// Errors of call operations, beside those of queues.
var (
	// ErrServerDied: the server died with the request, and it is not served again (on_server_death, max_deliveries). Whether the server
	// did what it was asked for is not known.
	ErrServerDied = errors.New("the server died with the request")
	// ErrCallerLeft: the caller no longer waits for the answer: it was cancelled, timed out, or died.
	ErrCallerLeft = errors.New("the caller no longer waits for the answer")
)

// Errors of topics.
var (
	// ErrNotPublisher: the topic is for one publisher at a time, and it is another attachment, or this process publishes already.
	ErrNotPublisher = errors.New("topic is for one publisher at a time, and that is another one")
	// ErrLoaned: the one publisher of a topic has a loan out, which must end before it publishes anything else.
	ErrLoaned = errors.New("the publisher's loan must end first")
	// ErrCursors: every row for subscribers is taken.
	ErrCursors = errors.New("topic has no room for another subscriber: raise subscribers in its configuration")
	// ErrEvicted: the subscription was ended, because it kept publishers waiting, or by an operator. What was read after the
	// last message that counted may have been overwritten.
	ErrEvicted = errors.New("subscription was evicted")
	// ErrLapped: the message was overwritten while it was read. What was read of it does not count.
	ErrLapped = errors.New("message was overwritten while it was read")
)

// A LostError says how many messages of a topic were overwritten before a subscriber read them. It is told once for each gap; the
// subscription goes on after it. Among them count positions that have no message, because a loan was given back or its holder died.
type LostError struct {
	Topic string
	Count uint64
}

func (e *LostError) Error() string {
	return fmt.Sprintf("topic %q: %d messages were overwritten before they were read", e.Topic, e.Count)
}

// A VersionError says that a segment has a layout of another major version.
type VersionError struct {
	Segment            string
	HaveMajor, HaveMin uint32 // of the segment
	WantMajor, WantMin uint32 // of this program
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("segment %q has layout version %d.%d, this program knows %d.%d: use the shmctl and libraries of the daemon's release",
		e.Segment, e.HaveMajor, e.HaveMin, e.WantMajor, e.WantMin)
}

// A FeatureError says that a segment uses features that this program must know and does not.
type FeatureError struct {
	Segment string
	Unknown uint64 // the bits
}

func (e *FeatureError) Error() string {
	return fmt.Sprintf("segment %q uses incompatible features %#x that this program does not know: use a newer release", e.Segment, e.Unknown)
}

// A KindError says that a segment is of another kind than was asked for.
type KindError struct {
	Segment    string
	Have, Want Kind
}

func (e *KindError) Error() string {
	return fmt.Sprintf("segment %q is a %v, not a %v", e.Segment, e.Have, e.Want)
}

// A CorruptError says that a value in the memory cannot be right, and where it lies.
type CorruptError struct {
	Segment string
	Offset  int64 // bytes from the start of the segment
	What    string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("segment %q is damaged at offset %#x: %s", e.Segment, e.Offset, e.What)
}

// A FullError says that writers hold every slot of a latest value, each in the middle of a Put or stopped there. It is ErrFull.
type FullError struct {
	Segment string
	Owners  []uint16 // attachment ids
}

func (e *FullError) Error() string {
	return fmt.Sprintf("latest value %q is full: every slot is held by a writer in the middle of its value, attachments %v; one that is stopped may be killed", e.Segment, e.Owners)
}

// Is makes the error one with ErrFull.
func (e *FullError) Is(target error) bool { return target == ErrFull }
