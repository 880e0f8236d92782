package shm

import (
	"errors"
	"fmt"
	"os"

	"github.com/shmd/shmd/internal/attach"
	"github.com/shmd/shmd/pkg/protocol"
)

// Errors of Attach.
var (
	// ErrNoDaemon: there is no socket of the region: the daemon does not run, or has another name or directory.
	ErrNoDaemon = attach.ErrNoDaemon
	// ErrDeadSocket: the socket is there and nobody listens: the daemon was killed, perhaps just now, before it had answered.
	ErrDeadSocket = attach.ErrDeadSocket
	// ErrSilent: the daemon does not answer.
	ErrSilent = attach.ErrSilent
	// ErrPermission: this user may not do that.
	ErrPermission = attach.ErrPermission
	// ErrAttached: another process has already attached as this worker.
	ErrAttached = errors.New("another process is already attached as this worker")
)

// Errors of messages.
var (
	// ErrQuit: the process was asked to quit (shmctl stop), or no daemon has lived for orphan_timeout. It is also the cause of the context that Quit returns.
	ErrQuit = errors.New("asked to quit")
	// ErrClosed: the region was closed by this process.
	ErrClosed = os.ErrClosed
	// ErrFull: TrySend and TryLoan found no free slot.
	ErrFull = protocol.ErrFull
	// ErrEmpty: TryReceive found no message.
	ErrEmpty = protocol.ErrEmpty
	// ErrLost: the loan or message had already ended, or a repair took it.
	ErrLost = protocol.ErrLost
	// ErrOvertaken: Get and View found every version overwritten before it was read whole.
	ErrOvertaken = protocol.ErrOvertaken
	// ErrServerDied: the server died with the request, and it is not served again.
	ErrServerDied = protocol.ErrServerDied
	// ErrCallerLeft: the caller no longer waits for the answer.
	ErrCallerLeft = protocol.ErrCallerLeft
	// ErrNoDeadLetters: the message cannot become a dead letter, as its channel has max_deliveries = 0.
	ErrNoDeadLetters = protocol.ErrNoDeadLetters
	// ErrNoChannel: this process does not hold a channel of that name.
	ErrNoChannel = errors.New("no such channel here")
)

// Errors of topics.
var (
	// ErrNotPublisher: the topic is for one publisher at a time, and it is another process, or this one uses its Publisher.
	ErrNotPublisher = protocol.ErrNotPublisher
	// ErrEvicted: the subscription was ended, because it kept publishers waiting, or by an operator.
	ErrEvicted = protocol.ErrEvicted
	// ErrLapped: the message was overwritten while it was read.
	ErrLapped = protocol.ErrLapped
	// ErrBusy: the message before has not ended.
	ErrBusy = errors.New("the message before must end first")
)

// LostError says how many messages of a topic were overwritten before a subscription read them.
type LostError = protocol.LostError

// A TooLargeError says that a payload does not fit into a slot.
type TooLargeError struct {
	Channel     string
	Size, Limit int // bytes
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("message of %d bytes is too large: a slot of channel %q holds %d; raise slot_size, or send a reference", e.Size, e.Channel, e.Limit)
}
