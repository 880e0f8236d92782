// Package attach is the wire format of a region's socket: one JSON object a packet on a Unix socket of type
// SOCK_SEQPACKET ("unixpacket"), descriptors beside it as SCM_RIGHTS. docs/protocol.md describes it for other
// languages; a test decodes that document's examples.
//
// The socket hands out descriptors and carries the few requests that need the daemon's own hands. Messages, control
// and observation go through the memory. Both ends use this package; who is allowed what is decided by the daemon,
// not here.
//
// Decoding is strict: what a version of the protocol does not define is refused with its name, so that a typing error
// in a client is an answer and never a silently ignored wish. Nothing that a peer sends makes this package panic, and
// every descriptor that came with a refused packet is closed.
package attach
