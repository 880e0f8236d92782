package attach

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/shmd/shmd/internal/unit"
)

// Errors of Dial: why there is no daemon to talk to. The error that Dial returns names the socket and says what to do.
var (
	// ErrNoDaemon: there is no socket file, so no daemon runs (or it runs elsewhere).
	ErrNoDaemon = errors.New("no daemon: there is no socket")
	// ErrDeadSocket: the socket file is there, but nobody listens: its daemon was killed, perhaps just now, before it had answered.
	ErrDeadSocket = errors.New("dead socket: its daemon is gone")
	// ErrPermission: the file system refuses the socket to this user, or the daemon refused the request by the
	// peer's credentials.
	ErrPermission = errors.New("permission denied")
	// ErrSilent: the daemon did not answer a ping in time: it is stopped, hung, or starting under socket activation; see SilentError.
	ErrSilent = errors.New("the daemon does not answer")
	// ErrNotShmd: something listens, but it is not a shmd daemon.
	ErrNotShmd = errors.New("not the socket of a shmd daemon")
)

// Errors of an open connection.
var (
	// ErrHungUp: the other end closed the connection.
	ErrHungUp = errors.New("the other end closed the connection")
	// ErrBadPacket: a packet does not follow the protocol. The error around it says what is wrong.
	ErrBadPacket = errors.New("bad packet")
	// ErrTooLarge: a packet is larger than MaxPacket.
	ErrTooLarge = fmt.Errorf("packet is larger than %d bytes", MaxPacket)
	// ErrTruncated: descriptors were lost on the way, as a rule because this process may not open so many files.
	ErrTruncated = errors.New("descriptors were lost on receipt: raise the limit of open files (ulimit -n, LimitNOFILE=)")
)

// A SilentError says for how long the daemon did not answer. errors.Is(err, ErrSilent).
type SilentError struct {
	Path  string        // of the socket
	After time.Duration // 0: so many wait for it already that it did not even accept
}

func (e *SilentError) Error() string {
	return fmt.Sprintf("%s: %v%s: it is stopped, hung or just starting; see its log (%s), or stop it through the memory (shmctl stop)", e.Path, ErrSilent, e.Within(), unit.Log(regionOf(e.Path)))
}

// Within is the time as words, "" if there was none.
func (e *SilentError) Within() string {
	if e.After == 0 {
		return ""
	}
	return fmt.Sprintf(" within %v", e.After)
}

func (e *SilentError) Is(target error) bool { return target == ErrSilent }

// A VersionError says that a packet is of another version of the protocol.
type VersionError struct {
	Have int // of the packet; 0 if it names none
	Want int // of this program
}

func (e *VersionError) Error() string {
	if e.Have == 0 {
		return fmt.Sprintf(`packet has no protocol version: say "v":%d`, e.Want)
	}
	return fmt.Sprintf("packet has protocol version %d, this program speaks %d: use the shmctl and libraries of the daemon's release", e.Have, e.Want)
}

// An UnknownOpError says that a request asks for something that this version of the protocol does not have.
type UnknownOpError struct{ Op string }

func (e *UnknownOpError) Error() string {
	return fmt.Sprintf("unknown op %q; there are: %s", e.Op, strings.Join(ops, ", "))
}

// A RefusedError is the daemon's "no", as it was sent.
type RefusedError struct {
	Code string // see the Code constants; a newer daemon may send others
	Text string // what is wrong and what to do next
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the daemon refused: %s (%s)", e.Text, e.Code)
}

// Is makes a refusal for want of permission an ErrPermission.
func (e *RefusedError) Is(target error) bool {
	return target == ErrPermission && e.Code == CodePermission
}

// Refusal is the reply to a request that could not be decoded or carried out. A *RefusedError goes out as it is, errors
// of decoding get their code, anything else is a bad request.
func Refusal(err error) Reply {
	r := Reply{V: Version, Code: CodeBadRequest, Error: err.Error()}
	var refused *RefusedError
	var version *VersionError
	var op *UnknownOpError
	switch {
	case errors.As(err, &refused):
		r.Code, r.Error = refused.Code, refused.Text
	case errors.As(err, &version):
		r.Code = CodeVersion
	case errors.As(err, &op):
		r.Code = CodeUnknownOp
	}
	if r.Error == "" { // a reply must say something
		r.Error = r.Code
	}
	r.Error = cut(r.Error, MaxError)
	return r
}
