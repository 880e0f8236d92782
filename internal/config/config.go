// Package config reads the daemon's configuration: TOML with strict, located errors.
//
// [Parse] refuses everything that can be refused by looking at the text alone: unknown keys,
// wrong types, values out of range, channels that nobody declared. [Config.Check] asks the
// system as well: do the commands, users and directories exist, is there memory enough.
// Both report every problem they find, each with file, line, column and what to do next.
//
// A Config is plain data once it is made: any number of goroutines may read it, nobody writes.
// docs/configuration.md describes every key; a test holds it to the struct tags below.
package config

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// Bounds of what a configuration may ask for.
const (
	MaxNameLen     = 31        // bytes of a name
	MaxWorkers     = 1024      // instances of one group, and of all groups together
	MaxOutsiders   = 32768     // region.max_attachments
	MinSlots       = 2         // of a channel
	MaxSlots       = 1 << 20   // of a channel
	MinVersions    = 4         // slots of a latest value
	MaxVersions    = 256       // slots of a latest value
	MaxSlotSize    = 1 << 30   // bytes of payload of a slot
	MaxSubscribers = 4096      // of a topic
	MaxDeliveries  = 63        // what the slot's state word can count
	MinLogSize     = 64 << 10  // bytes of the log ring: four of the longest records
	MaxLogSize     = 1 << 30   // bytes of the log ring
	MinWorkerLog   = 16 << 10  // bytes of the log ring of an instance
	MaxLogRate     = 1 << 30   // records a second
	MaxChannelSize = 1 << 46   // bytes of a channel, sparse or not: what a process can map
	MaxFileSize    = 256 << 10 // bytes of a configuration file
	MaxCrashLimit  = 1 << 20   // restarts
	MaxWindow      = 1 << 16   // filter_window
	MaxMetrics     = 1024      // rows of a metric table
	MaxDumps       = 1000      // region.dumps
	maxDuration    = 24 * time.Hour
	systemDir      = "/etc/shmd"
	embeddedName   = "default.toml (embedded)"
)

// Config is one region's configuration. Get one from [Load], [Parse] or [Default].
type Config struct {
	Path     string    // the name given to Load or Parse; empty for the embedded default
	Region   Region    `toml:"region"`
	Channels []Channel `toml:"channel"` // in the order of the file
	Groups   []Group   `toml:"worker"`  // in the order of the file
	Access   Access    `toml:"access"`
	Metrics  Metrics   `toml:"metrics"`

	src *source // where each key stands; nil in a Config that was made by hand
}

// Region is the table [region].
type Region struct {
	Name           string        `toml:"name"`
	LogSize        int64         `toml:"log_size"`                 // bytes of the log's ring, a power of two
	EventsSize     int64         `toml:"events_size"`              // bytes of the events' ring, a power of two
	MaxAttachments int           `toml:"max_attachments"`          // outsiders attached at a time; workers come on top
	MaxPerUser     int           `toml:"max_attachments_per_user"` // of them, of one user who is neither root nor the daemon's; 0: half
	OrphanTimeout  time.Duration `toml:"orphan_timeout"`           // workers quit by themselves when no daemon has lived for so long; 0: never
	HugePages      bool          `toml:"huge_pages"`               // segments lie in huge pages
	Mlock          bool          `toml:"mlock"`                    // segments are locked into memory
	Prefault       bool          `toml:"prefault"`                 // pages are mapped in at attach, not at the first use
	DontDump       bool          `toml:"dont_dump"`                // segments are left out of core dumps
	Dumps          int           `toml:"dumps"`                    // files that are kept of groups that failed; 0: none is written
	DumpSize       int64         `toml:"dump_size"`                // bytes of memory that one of them copies at most
	DumpDir        string        `toml:"dump_dir"`                 // absolute; empty: below $STATE_DIRECTORY, or nowhere
}

// PerUser is how many outsiders of one user may be attached at a time.
func (r *Region) PerUser() int {
	if r.MaxPerUser > 0 {
		return r.MaxPerUser
	}
	return (r.MaxAttachments + 1) / 2
}

// Channel is one table [channel.NAME]. Its dead letters go to a channel NAME.dead, which the
// configuration cannot name.
type Channel struct {
	Name          string
	Kind          string        `toml:"kind"`            // KindQueue, KindTopic, KindLatest, KindCall
	Slots         int           `toml:"slots"`           // a power of two
	SlotSize      int64         `toml:"slot_size"`       // bytes of payload that a slot holds
	MaxDeliveries int           `toml:"max_deliveries"`  // then a message is a dead letter; 0: never
	MaxLeases     int           `toml:"max_leases"`      // slots that one consumer may hold at a time; 0: no limit
	DeadSlots     int           `toml:"dead_slots"`      // slots of NAME.dead, a power of two; unused if MaxDeliveries is 0
	OnServerDeath string        `toml:"on_server_death"` // OnServerDeathRetry, OnServerDeathFail
	Producers     int           `toml:"producers"`       // how many processes may produce: 1, or 0 for any number
	Consumers     int           `toml:"consumers"`       // how many processes may consume: 1, or 0 for any number
	Overflow      string        `toml:"overflow"`        // topic: OverflowBlock, OverflowDropOldest
	Publishers    int           `toml:"publishers"`      // topic: 1: one at a time, and faster; 0: any number
	Subscribers   int           `toml:"subscribers"`     // topic: how many at a time
	EvictAfter    time.Duration `toml:"evict_after"`     // topic: how long a subscriber may keep a publisher waiting; 0: for ever
	StallAfter    time.Duration `toml:"stall_after"`     // a slot that somebody holds for so long is a stall, which is told; 0: never
	Sparse        bool          `toml:"sparse"`          // memory is taken when it is touched, not in advance
	AllowProduce  []string      `toml:"allow_produce"`   // outsiders who may produce: "alice", "@ops", "*"
	AllowConsume  []string      `toml:"allow_consume"`   // outsiders who may consume
}

// Group is one table [worker.NAME]. Exactly one of Command and Builtin is set.
type Group struct {
	Name         string
	Command      []string          `toml:"command"`       // program and arguments
	Builtin      string            `toml:"builtin"`       // "wordcount", "idle" or "echo"
	Count        int               `toml:"count"`         // instances
	Consume      []string          `toml:"consume"`       // channels, all declared
	Produce      []string          `toml:"produce"`       // channels, all declared
	Stdin        string            `toml:"stdin"`         // channel whose messages a filter reads as lines; see Filter
	Stdout       string            `toml:"stdout"`        // channel to which the lines go that a filter writes
	FilterWindow int               `toml:"filter_window"` // messages that a filter has at a time
	Ack          string            `toml:"ack"`           // AckOutput, AckWritten
	Delimiter    string            `toml:"delimiter"`     // DelimiterNewline, DelimiterNUL
	StallTimeout time.Duration     `toml:"stall_timeout"` // a filter that has not answered for so long is reported as stalled; 0: never
	Wait         string            `toml:"wait"`          // WaitAdaptive, WaitBlock, WaitSpin
	Restart      string            `toml:"restart"`       // RestartAlways, RestartOnFailure, RestartNever
	StopTimeout  time.Duration     `toml:"stop_timeout"`  // from quit flag to SIGTERM, and from SIGTERM to SIGKILL
	Ready        string            `toml:"ready"`         // ReadyExec, ReadyCall; empty: see ReadyAtExec
	ReadyTimeout time.Duration     `toml:"ready_timeout"` // from start to ready; 0: no limit
	BackoffMin   time.Duration     `toml:"backoff_min"`   // delay before the first restart
	BackoffMax   time.Duration     `toml:"backoff_max"`   // the delay doubles up to this
	CrashLimit   int               `toml:"crash_limit"`   // restarts within CrashWindow before state failed; 0: never gives up
	CrashWindow  time.Duration     `toml:"crash_window"`  //
	Metrics      int               `toml:"metrics"`       // rows of an instance's metric table
	Watchdog     time.Duration     `toml:"watchdog"`      // a ready instance without a heartbeat for so long is hung; 0: never
	LogSize      int64             `toml:"log_size"`      // bytes of the ring that each instance logs to, a power of two
	LogRate      int               `toml:"log_rate"`      // records and lines a second of one instance that are kept; 0: no limit
	LogBurst     int               `toml:"log_burst"`     // how many may come at once
	OnCrash      string            `toml:"on_crash"`      // OnCrashRepair, OnCrashReset
	After        []string          `toml:"after"`         // groups that have to be ready before an instance is started, and stop after it
	Limits       Limits            `toml:"limits"`        // by name; Unlimited: none
	Nice         int               `toml:"nice"`          // 0: the daemon's own
	CPUs         string            `toml:"cpus"`          // "0-3,6"; empty: the daemon's own. See CPUList
	OOMScoreAdj  int               `toml:"oom_score_adj"` // 0: the daemon's own
	Cgroup       bool              `toml:"cgroup"`        // its instances are in a cgroup of their own
	CgroupLimits Limits            `toml:"cgroup_limits"` // of that cgroup, by name; Unlimited: none
	Env          map[string]string `toml:"env"`           // added to the environment that the daemon hands on
	Dir          string            `toml:"dir"`           // absolute; empty: the daemon's own
	User         string            `toml:"user"`          // name or uid; empty: the daemon's own
}

// Access is the table [access]: which outsiders get which role. Root and the daemon's own
// user always operate.
type Access struct {
	Observe []string `toml:"observe"` // read-only descriptors
	Operate []string `toml:"operate"` // command segment writable; includes observe
}

// Values of Group.Restart, Group.OnCrash, Group.Ready, Group.Ack, Group.Delimiter, Group.Wait, Channel.Kind, Channel.OnServerDeath and Group.Builtin.
const (
	RestartAlways    = "always"
	RestartOnFailure = "on-failure"
	RestartNever     = "never"

	OnCrashRepair = "repair"      // what the dead process held is given back, and it is started again
	OnCrashReset  = "reset-group" // the others of its group end too, and all are started again

	WaitAdaptive = "adaptive" // its ends of channels look for a while, and then sleep
	WaitBlock    = "block"    // they sleep at once
	WaitSpin     = "spin"     // they never sleep

	ReadyExec = "exec" // ready as soon as the command runs
	ReadyCall = "call" // ready when it says so through the library

	KindQueue  = "queue"  // each message to one consumer
	KindTopic  = "topic"  // each message to every subscriber
	KindLatest = "latest" // the newest value
	KindCall   = "call"   // each request to one server, and back

	OnServerDeathRetry = "retry" // another server gets the request
	OnServerDeathFail  = "fail"  // the caller gets an error

	OverflowBlock      = "block"       // publishers wait for the slowest subscriber
	OverflowDropOldest = "drop-oldest" // a subscriber that is too slow loses messages, and is told how many

	AckOutput  = "output"  // a message is done when the line that answers it is committed
	AckWritten = "written" // a message is done when it is written to the filter

	DelimiterNewline = "newline"
	DelimiterNUL     = "nul"

	BuiltinWordcount = "wordcount" // counts the words that its one consumed channel names, tells its one produced one
	BuiltinIdle      = "idle"      // ready, then sleeps until quit
	BuiltinEcho      = "echo"      // moves its one consumed channel to its one produced one
)

func defaultRegion() Region {
	return Region{Name: "default", LogSize: 1 << 20, EventsSize: 1 << 20, MaxAttachments: 1024, OrphanTimeout: time.Minute, Dumps: 3, DumpSize: 64 << 20}
}

func defaultChannel(name string) Channel {
	return Channel{Name: name, Kind: KindQueue, Slots: 1024, SlotSize: 4 << 10, MaxDeliveries: 5, Overflow: OverflowBlock, Subscribers: 64}
}

// kindDefaults sets what the defaults of a channel's kind are, where the file says nothing.
func (ch *Channel) kindDefaults(given func(key string) bool) {
	set := func(key string, to *int, n int) {
		if !given(key) {
			*to = n
		}
	}
	switch ch.Kind {
	case KindLatest:
		set("slots", &ch.Slots, 8)
	case KindCall:
		set("slots", &ch.Slots, 64)
		if !given("on_server_death") {
			ch.OnServerDeath = OnServerDeathRetry
		}
	}
	if ch.Kind != KindTopic {
		set("subscribers", &ch.Subscribers, 0)
		if !given("overflow") {
			ch.Overflow = ""
		}
	}
	dead := min(ch.Slots, 1024)
	if slices.Contains(kinds, ch.Kind) { // else it is refused for its kind
		if !slices.Contains(kindKeys["max_deliveries"], ch.Kind) {
			set("max_deliveries", &ch.MaxDeliveries, 0)
		}
		if !slices.Contains(kindKeys["dead_slots"], ch.Kind) {
			dead = 0
		}
	}
	set("dead_slots", &ch.DeadSlots, dead)
}

// kinds are the kinds of channels.
var kinds = []string{KindQueue, KindTopic, KindLatest, KindCall}

// kindKeys are the keys that not every kind of channel has, with the kinds that have it.
var kindKeys = map[string][]string{
	"max_deliveries":  {KindQueue, KindCall},
	"dead_slots":      {KindQueue},
	"max_leases":      {KindQueue},
	"on_server_death": {KindCall},
	"producers":       {KindQueue},
	"consumers":       {KindQueue},
	"overflow":        {KindTopic},
	"publishers":      {KindTopic},
	"subscribers":     {KindTopic},
	"evict_after":     {KindTopic},
}

// Lane reports whether the channel is a queue with one producer and one consumer.
func (ch *Channel) Lane() bool { return ch.Kind == KindQueue && ch.Producers == 1 && ch.Consumers == 1 }

func defaultGroup(name string) Group {
	return Group{
		Name:         name,
		Count:        1,
		FilterWindow: 1,
		Ack:          AckOutput,
		Delimiter:    DelimiterNewline,
		StallTimeout: 10 * time.Second,
		Wait:         WaitAdaptive,
		OnCrash:      OnCrashRepair,
		Restart:      RestartAlways,
		StopTimeout:  DefaultStopTimeout,
		ReadyTimeout: 30 * time.Second,
		BackoffMin:   100 * time.Millisecond,
		BackoffMax:   30 * time.Second,
		CrashLimit:   10,
		CrashWindow:  10 * time.Minute,
		Metrics:      48,
		LogSize:      64 << 10,
		LogBurst:     1000,
	}
}

// DefaultStopTimeout is stop_timeout where a group does not say.
const DefaultStopTimeout = 5 * time.Second

// DefaultTOML is the configuration of a daemon that is started without one: a tutorial.
//
//go:embed default.toml
var DefaultTOML []byte

// Default returns the embedded configuration. Its Path is empty.
func Default() *Config {
	c, err := Parse(embeddedName, DefaultTOML)
	if err != nil {
		panic(err) // a test parses it
	}
	c.Path = ""
	return c
}

// Load reads and parses a file, or what a pipe gives: /dev/stdin, or the shell's <(command). A file that cannot be read gives an
// error that wraps the system's (errors.Is(err, fs.ErrNotExist) works); what Parse refuses gives [Errors]. It waits at
// most pipePatience, whatever lies at path.
func Load(path string) (*Config, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // opening a pipe else waits for who writes into it
	if err != nil {
		return nil, unreadable(path, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, unreadable(path, err)
	}
	var data []byte
	switch mode := st.Mode(); {
	case mode.IsRegular():
		data, err = io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	case mode&fs.ModeNamedPipe != 0:
		data, err = readPipe(f)
	case mode.IsDir():
		err = &fs.PathError{Op: "read", Path: path, Err: syscall.EISDIR}
	default:
		err = &fs.PathError{Op: "read", Path: path, Err: errors.New("neither a file nor a pipe")}
	}
	if err != nil {
		return nil, unreadable(path, err)
	}
	return Parse(path, data)
}

// pipePatience is how long a configuration that comes through a pipe may take to come; tests have less.
var pipePatience = 10 * time.Second

// readPipe reads what comes through a pipe that was opened without blocking. Until a writer has opened it the pipe seems to be at its
// end, and no event tells when that changes: so it looks again.
func readPipe(f *os.File) (data []byte, err error) {
	end := time.Now().Add(pipePatience)
	if err := f.SetReadDeadline(end); err != nil {
		return nil, err
	}
	for len(data) == 0 && err == nil {
		if time.Now().After(end) {
			return nil, &fs.PathError{Op: "read", Path: f.Name(), Err: fmt.Errorf("nobody has written into this pipe within %v", pipePatience)}
		}
		if data, err = io.ReadAll(io.LimitReader(f, MaxFileSize+1)); len(data) == 0 {
			time.Sleep(10 * time.Millisecond)
		}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = &fs.PathError{Op: "read", Path: f.Name(), Err: fmt.Errorf("who writes into this pipe has not ended within %v", pipePatience)}
	}
	return data, err
}

func unreadable(path string, err error) error {
	next := "give the path of a configuration file with -c"
	switch {
	case path == "-":
		next = "standard input is /dev/stdin"
	case errors.Is(err, fs.ErrNotExist):
		next = "write it, or start the daemon with another one (-c FILE), or with none, which is the embedded default"
	case errors.Is(err, fs.ErrPermission):
		next = "make it readable for the daemon's user"
	}
	return fmt.Errorf("cannot read the configuration: %w; %s", err, next)
}

// Text is what the configuration was parsed from. It must not be changed.
func (c *Config) Text() []byte {
	if c.src == nil { // it was put together
		return nil
	}
	return c.src.data
}

// Parse reads a configuration from data; name is what errors call it, and becomes Path. What
// it returns is complete (defaults filled in) and holds to every bound that docs/configuration.md
// names. On failure the Config is nil and the error is of type [Errors], in the order of the file.
func Parse(name string, data []byte) (*Config, error) {
	src := newSource(name, data)
	root, errs, complete := parseTree(src)
	c := &Config{Path: name, Region: defaultRegion(), src: src}
	d := decoder{src: src}
	d.root(root, c)
	errs = append(errs, d.errs...)
	if complete && len(root.kids) == 0 && len(errs) == 0 { // a reload of it would end every worker
		errs = append(errs, Error{File: name, Line: 1, Col: 1, Msg: "nothing stands here: an editor, or who copies it, may not be done; a region without channels and workers is written as [region]"})
	}
	if complete { // else what stands after the syntax error would seem unknown
		errs = append(errs, src.confirm(errs)...)
		errs = append(errs, c.validate()...)
	}
	if len(errs) > 0 {
		errs.sort()
		return nil, errs
	}
	return c, nil
}

// FindDefault returns the path of the region's configuration, REGION.toml, in the first of dirs
// that has one; without dirs it looks in /etc/shmd. It returns "" where there is none and for a
// region that cannot be one. A daemon under systemd passes what CONFIGURATION_DIRECTORY lists.
func FindDefault(region string, dirs ...string) string {
	if !validName(region) {
		return ""
	}
	if len(dirs) == 0 {
		dirs = []string{systemDir}
	}
	for _, dir := range dirs {
		p := filepath.Join(dir, region+".toml")
		if st, err := os.Stat(p); err == nil && !st.IsDir() {
			return p
		}
	}
	return ""
}
