package attach

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Version is the version of the protocol, the "v" of every packet.
const Version = 1

// Limits of a packet. A peer that exceeds one is refused.
const (
	MaxPacket   = 64 << 10 // bytes of JSON
	MaxFiles    = 200      // descriptors; the kernel's own limit is 253
	MaxChannels = 200      // channels described
	MaxName     = 64       // bytes of a name, as in the memory
	MaxGrants   = 1024     // names in produce or consume
	MaxError    = 4 << 10  // bytes of an error's text
	MaxSteps    = 40       // steps of a plan
	MaxText     = 512      // bytes of the text of a step
	MaxBinary   = 4 << 10  // bytes of the path of a program
)

// What a request can ask for.
const (
	OpPing     = "ping"     // who are you?
	OpAttach   = "attach"   // give me the region's segments; at most one attachment a connection
	OpDetach   = "detach"   // end the attachment of this connection
	OpChannels = "channels" // which channels are there?
	OpReload   = "reload"   // read your configuration again, and apply what is new; for who may operate
	OpUpgrade  = "upgrade"  // let another program take your place; for root and the daemon's user
)

var ops = []string{OpPing, OpAttach, OpDetach, OpChannels, OpReload, OpUpgrade}

// What an attachment may do with the command segment.
const (
	RoleObserve = "observe" // read-only descriptors
	RoleOperate = "operate" // the command segment is writable
)

// Why the daemon refused.
const (
	CodePermission = "permission"  // the peer's credentials do not allow it
	CodeVersion    = "version"     // another version of the protocol
	CodeUnknownOp  = "unknown-op"  // no such request
	CodeBadRequest = "bad-request" // the request does not follow the protocol
	CodeNoChannel  = "no-channel"  // a name in produce or consume is no channel
	CodeBusy       = "busy"        // out of attachments, or the connection has one already, or the region is stopping
	CodeConfig     = "config"      // the configuration is refused: nothing has changed
	CodeUpgrade    = "upgrade"     // the other program cannot take over: the daemon goes on as it is
)

// A Request is what a client sends. Role, Name, Produce and Consume belong to attach alone, Binary to upgrade, DryRun to reload.
type Request struct {
	V       int      `json:"v"`
	Op      string   `json:"op"`
	Role    string   `json:"role,omitempty"`    // RoleObserve or RoleOperate; attach must say
	Name    string   `json:"name,omitempty"`    // what the client calls itself, for people
	Produce []string `json:"produce,omitempty"` // channels that it wants to send to
	Consume []string `json:"consume,omitempty"` // channels that it wants to receive from
	DryRun  bool     `json:"dry_run,omitempty"` // only say what would be done
	Binary  string   `json:"binary,omitempty"`  // absolute path of the program; without it the file that the daemon runs
}

// A Reply is what the daemon sends. A reply with More set is continued by the next packet: FDs, Channels and Plan go on
// there, all other fields are those of the first.
type Reply struct {
	V          int       `json:"v"`
	OK         bool      `json:"ok"`
	Pid        int       `json:"pid,omitempty"`        // of the daemon
	Version    string    `json:"version,omitempty"`    // of the daemon
	Region     string    `json:"region,omitempty"`     // name of the region
	Attachment uint16    `json:"attachment,omitempty"` // id that stamps slots, of an attach
	FDs        []string  `json:"fds,omitempty"`        // names of this packet's descriptors, in their order
	Channels   []Channel `json:"channels,omitempty"`
	From       string    `json:"from,omitempty"`     // version that the daemon had, of an upgrade
	PauseNs    int64     `json:"pause_ns,omitempty"` // for so long nobody supervised, of an upgrade
	Plan       []Step    `json:"plan,omitempty"`     // of a reload: what is done, or would be
	Applied    bool      `json:"applied,omitempty"`  // of a reload: it is being done
	More       bool      `json:"more,omitempty"`
	Code       string    `json:"code,omitempty"`  // of a refusal
	Error      string    `json:"error,omitempty"` // of a refusal: what is wrong and what to do next
}

// A Channel is what the daemon says of a channel. Produce and Consume tell whether the peer may.
type Channel struct {
	Name     string `json:"name"`
	Kind     string `json:"kind"`
	Slots    uint32 `json:"slots,omitempty"`
	SlotSize uint32 `json:"slot_size,omitempty"` // bytes
	Produce  bool   `json:"produce,omitempty"`
	Consume  bool   `json:"consume,omitempty"`
}

// A Step is one thing that a reload does.
type Step struct {
	Action string `json:"action"` // apply, add, restart, scale, remove or impossible
	Table  string `json:"table"`  // of the configuration, as it is written there: [worker.web]
	Text   string `json:"text"`   // which keys, from what to what
}

// Err is nil for a reply that is ok, else a *RefusedError.
func (r Reply) Err() error {
	if r.OK {
		return nil
	}
	return &RefusedError{r.Code, r.Error}
}

// Encode makes the packet of a request; V is set. Errors: ErrBadPacket, *UnknownOpError, ErrTooLarge.
func (r Request) Encode() ([]byte, error) {
	r.V = Version
	if err := r.check(); err != nil {
		return nil, err
	}
	return encode(r)
}

// Encode makes the packet of a reply; V is set. Errors: ErrBadPacket, ErrTooLarge.
func (r Reply) Encode() ([]byte, error) {
	r.V = Version
	if err := r.check(); err != nil {
		return nil, err
	}
	return encode(r)
}

func encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadPacket, err)
	}
	p := bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	if len(p) > MaxPacket {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(p))
	}
	return p, nil
}

// DecodeRequest reads a request and checks it. Errors, in the order in which they are looked for: ErrTooLarge,
// ErrBadPacket (no JSON object), *VersionError, *UnknownOpError, ErrBadPacket. Refusal makes the answer to each.
func DecodeRequest(p []byte) (Request, error) {
	var r Request
	fields, err := object(p)
	if err != nil {
		return r, err
	}
	if err := checkVersion(fields); err != nil {
		return r, err
	}
	if raw, ok := fields["op"]; ok { // before unknown fields: a newer op brings its own
		if err := json.Unmarshal(raw, &r.Op); err != nil {
			return r, bad("op: %v", plain(err))
		}
		if !slices.Contains(ops, r.Op) {
			return r, &UnknownOpError{cut(r.Op, MaxName)}
		}
	}
	if err := strict(p, fields, &r, requestFields); err != nil {
		return r, err
	}
	return r, r.check()
}

// DecodeReply reads a reply and checks it; a refusal is no error here, see Reply.Err. Errors, in the order in which
// they are looked for: ErrTooLarge, ErrBadPacket (no JSON object), *VersionError, ErrBadPacket.
func DecodeReply(p []byte) (Reply, error) {
	var r Reply
	fields, err := object(p)
	if err != nil {
		return r, err
	}
	if err := checkVersion(fields); err != nil {
		// A daemon that does not know our version says so in its own; its words are worth more.
		var old struct {
			OK          bool
			Code, Error string
		}
		if json.Unmarshal(p, &old) == nil && !old.OK && old.Code == CodeVersion && old.Error != "" {
			return r, fmt.Errorf("%w; the daemon says: %s", err, cut(old.Error, MaxError))
		}
		return r, err
	}
	if err := strict(p, fields, &r, replyFields); err != nil {
		return r, err
	}
	return r, r.check()
}

var (
	requestFields = []string{"v", "op", "role", "name", "produce", "consume", "binary", "dry_run"}
	replyFields   = []string{"v", "ok", "pid", "version", "region", "attachment", "fds", "channels", "from", "pause_ns", "plan", "applied", "more", "code", "error"}
	channelFields = []string{"name", "kind", "slots", "slot_size", "produce", "consume"}
)

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrBadPacket, fmt.Sprintf(format, args...))
}

// object takes the packet apart into the fields of one JSON object.
func object(p []byte) (map[string]json.RawMessage, error) {
	if len(p) > MaxPacket {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(p))
	}
	if !utf8.Valid(p) {
		return nil, bad("not UTF-8")
	}
	if t := bytes.TrimLeft(p, " \t\r\n"); len(t) == 0 || t[0] != '{' {
		return nil, bad("not a JSON object")
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(p, &fields); err != nil {
		return nil, bad("%v", plain(err))
	}
	return fields, nil
}

func checkVersion(fields map[string]json.RawMessage) error {
	raw, ok := fields["v"]
	if !ok {
		return &VersionError{0, Version}
	}
	var v int
	if err := json.Unmarshal(raw, &v); err != nil {
		return bad("v: %v", plain(err))
	}
	if v != Version {
		return &VersionError{v, Version}
	}
	return nil
}

// strict decodes p into out, whose fields are known. encoding/json alone would take "OP" for "op", the last of two
// equal keys, and null for anything.
func strict(p []byte, fields map[string]json.RawMessage, out any, known []string) error {
	if err := checkFields("", fields, known); err != nil {
		return err
	}
	if err := checkKeys(p); err != nil {
		return err
	}
	if raw, ok := fields["channels"]; ok {
		var channels []map[string]json.RawMessage
		if err := json.Unmarshal(raw, &channels); err != nil {
			return bad("channels: %v", plain(err))
		}
		for i, c := range channels {
			if err := checkFields(fmt.Sprintf("channels[%d].", i), c, channelFields); err != nil {
				return err
			}
		}
	}
	d := json.NewDecoder(bytes.NewReader(p))
	d.DisallowUnknownFields()
	if err := d.Decode(out); err != nil {
		return bad("%v", plain(err))
	}
	return nil
}

func checkFields(where string, fields map[string]json.RawMessage, known []string) error {
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if !slices.Contains(known, name) {
			return bad("unknown field %q; there are: %s", where+cut(name, MaxName), strings.Join(known, ", "))
		}
		if string(fields[name]) == "null" {
			return bad("field %q is null: leave it out", where+name)
		}
	}
	return nil
}

// checkKeys refuses an object that has a key twice.
func checkKeys(p []byte) error {
	type level struct {
		keys map[string]bool // nil for an array
		key  bool            // the next token is a key
	}
	var stack []level
	d := json.NewDecoder(bytes.NewReader(p))
	d.UseNumber()
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return bad("%v", plain(err))
		}
		if delim, ok := t.(json.Delim); ok {
			switch delim {
			case '{':
				stack = append(stack, level{map[string]bool{}, true})
				continue
			case '[':
				stack = append(stack, level{})
				continue
			default:
				stack = stack[:len(stack)-1]
			}
		}
		if len(stack) == 0 {
			continue
		}
		top := &stack[len(stack)-1]
		if top.keys == nil {
			continue
		}
		if _, isKey := t.(string); isKey && top.key {
			if k := t.(string); top.keys[k] {
				return bad("field %q is there twice", cut(k, MaxName))
			}
			top.keys[t.(string)] = true
			top.key = false
			continue
		}
		top.key = true // a value, or the end of one
	}
}

// plain strips encoding/json's way of naming Go types, which mean nothing to somebody who writes C.
func plain(err error) string {
	var te *json.UnmarshalTypeError
	if errors.As(err, &te) {
		if te.Field != "" {
			return fmt.Sprintf("field %q cannot hold a %s", te.Field, te.Value)
		}
		return fmt.Sprintf("a %s is not what belongs here", te.Value)
	}
	return strings.TrimPrefix(err.Error(), "json: ")
}

func (r Request) check() error {
	if r.Op == "" {
		return bad(`no "op"; there are: %s`, strings.Join(ops, ", "))
	}
	if !slices.Contains(ops, r.Op) {
		return &UnknownOpError{cut(r.Op, MaxName)}
	}
	if r.Op != OpAttach {
		for _, f := range []struct {
			name string
			set  bool
		}{{"role", r.Role != ""}, {"name", r.Name != ""}, {"produce", r.Produce != nil}, {"consume", r.Consume != nil}, {"binary", r.Binary != "" && r.Op != OpUpgrade}, {"dry_run", r.DryRun && r.Op != OpReload}} {
			if f.set {
				return bad("op %q takes no %q", r.Op, f.name)
			}
		}
		if len(r.Binary) > MaxBinary {
			return bad("\"binary\" has %d bytes; at most %d", len(r.Binary), MaxBinary)
		}
		return nil
	}
	if r.Binary != "" {
		return bad("op %q takes no %q", r.Op, "binary")
	}
	if r.DryRun {
		return bad("op %q takes no %q", r.Op, "dry_run")
	}
	if r.Role != RoleObserve && r.Role != RoleOperate {
		return bad("role %q; there are: %s, %s", cut(r.Role, MaxName), RoleObserve, RoleOperate)
	}
	if r.Name != "" {
		if err := checkName("name", r.Name); err != nil {
			return err
		}
	}
	if err := checkNames("produce", r.Produce, MaxGrants); err != nil {
		return err
	}
	return checkNames("consume", r.Consume, MaxGrants)
}

func (r Reply) check() error {
	if !r.OK {
		switch {
		case r.Code == "" || r.Error == "":
			return bad(`a refusal needs a "code" and an "error"`)
		case r.FDs != nil || r.Channels != nil || r.More || r.Attachment != 0 || r.From != "" || r.PauseNs != 0 || r.Plan != nil || r.Applied:
			return bad("a refusal carries nothing else")
		case len(r.Error) > MaxError:
			return bad("error text of %d bytes; at most %d", len(r.Error), MaxError)
		}
		return checkName("code", r.Code)
	}
	if r.Code != "" || r.Error != "" {
		return bad(`a reply that is ok has no "code" and no "error"`)
	}
	if r.Pid < 0 {
		return bad("pid %d", r.Pid)
	}
	if r.PauseNs < 0 {
		return bad("pause of %d ns", r.PauseNs)
	}
	if r.Region != "" {
		if err := checkName("region", r.Region); err != nil {
			return err
		}
	}
	if err := checkNames("fds", r.FDs, MaxFiles); err != nil {
		return err
	}
	if len(r.Plan) > MaxSteps {
		return bad("%d steps in one packet; at most %d", len(r.Plan), MaxSteps)
	}
	for i, s := range r.Plan {
		if err := checkName(fmt.Sprintf("plan[%d].action", i), s.Action); err != nil {
			return err
		}
		if err := checkName(fmt.Sprintf("plan[%d].table", i), s.Table); err != nil {
			return err
		}
		if len(s.Text) > MaxText {
			return bad("plan[%d].text has %d bytes; at most %d", i, len(s.Text), MaxText)
		}
	}
	if len(r.Channels) > MaxChannels {
		return bad("%d channels in one packet; at most %d", len(r.Channels), MaxChannels)
	}
	for i, c := range r.Channels {
		if err := checkName(fmt.Sprintf("channels[%d].name", i), c.Name); err != nil {
			return err
		}
		if err := checkName(fmt.Sprintf("channels[%d].kind", i), c.Kind); err != nil {
			return err
		}
	}
	return nil
}

// checkNames checks a list of names, each of which may be there once.
func checkNames(field string, names []string, most int) error {
	if len(names) > most {
		return bad("%d names in %q; at most %d", len(names), field, most)
	}
	seen := make(map[string]bool, len(names))
	for i, n := range names {
		if err := checkName(fmt.Sprintf("%s[%d]", field, i), n); err != nil {
			return err
		}
		if seen[n] {
			return bad("%q is twice in %q", n, field)
		}
		seen[n] = true
	}
	return nil
}

// checkName refuses what is empty, longer than a name in the memory can be, or would garble a terminal.
func checkName(field, s string) error {
	switch {
	case s == "":
		return bad("%q is empty", field)
	case len(s) > MaxName:
		return bad("%q has %d bytes; at most %d", field, len(s), MaxName)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) }):
		return bad("%q has characters that cannot be printed", field)
	}
	return nil
}

// cut shortens s to at most n bytes, at a rune boundary.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	const dots = "…"
	n -= len(dots)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + dots
}
