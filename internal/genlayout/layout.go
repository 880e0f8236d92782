// Package main is genlayout: the one description of what lies in shmd's memory (this file), and the
// emitters that turn it into Go (pkg/protocol/layout_gen.go), C (clients/c/shmd_layout.h), Python
// (clients/python/shmd/layout.py) and docs/layout.md.
//
// Everything in the memory is little-endian and naturally aligned. A scalar is one atomic word. A field
// is written by the one side that its Writer names; fields of different writers lie on different cache
// lines (64 bytes). Reserved bytes are zeroed by writers and ignored by readers.
package main

// Versions of the layout. A new minor version only uses reserved bytes; a new major version moves things.
const (
	LayoutMajor = 1
	LayoutMinor = 0
)

// KnownIncompat are the incompatible features that the programs of this layout know: none so far.
const KnownIncompat uint64 = 0

// Type is the type of a field.
type Type string

const (
	U32  Type = "u32"  // one atomic 32-bit word
	U64  Type = "u64"  // one atomic 64-bit word
	Text Type = "text" // UTF-8, NUL-padded, in whole 64-bit words so that it is copied word by word
	Raw  Type = "raw"  // bytes without a meaning for the layout, in whole 64-bit words
)

// Field is one field of a Struct.
type Field struct {
	Name   string // CamelCase; C and Python get lower_snake
	Type   Type
	Offset int // from the start of the struct
	Bytes  int // 4 or 8 for words; a multiple of 8 for Text and Raw
	Writer string
	Doc    string
}

// Struct is one fixed-size record.
type Struct struct {
	Name   string
	Size   int
	Doc    string
	Fields []Field
}

// Const is a named number that every language gets.
type Const struct {
	Group string // e.g. "Kind": the Go constant is GroupName, C is SHMD_GROUP_NAME
	Name  string
	Value uint64
	Doc   string
}

// Section says where the structs lie in a segment of a kind.
type Section struct {
	Kind   string // roster, command, group, queue, log
	Struct string
	Offset string // a number, or the name of the field that holds it
	Stride string // "" for one, else a number or the name of the field
	Count  string
	Doc    string
}

func w32(name string, off int, writer, doc string) Field {
	return Field{name, U32, off, 4, writer, doc}
}
func w64(name string, off int, writer, doc string) Field {
	return Field{name, U64, off, 8, writer, doc}
}
func text(name string, off, n int, writer, doc string) Field {
	return Field{name, Text, off, n, writer, doc}
}
func raw(name string, off, n int, writer, doc string) Field {
	return Field{name, Raw, off, n, writer, doc}
}

const (
	creator   = "creator"  // whoever made the segment, before the magic is published
	daemon    = "daemon"   // the daemon alone
	operator  = "operator" // whoever holds the command segment writable; the daemon clears
	instance  = "instance" // the one instance that the page belongs to
	callSide  = "the slot's caller"
	serveSide = "the slot's server"
	anyPeer   = "peers" // every process that holds the channel writable, by compare-and-swap
	rowOwner  = "the row's owner"
)

// Structs in the order in which docs/layout.md shows them.
var Structs = []Struct{
	{Name: "SegmentHeader", Size: 256, Doc: "The first 256 bytes of every segment. Magic is stored last, with release.", Fields: []Field{
		w64("Magic", 0, creator, "0x31474553444d4853, the bytes \"SHMDSEG1\"; 0 while the segment is not ready"),
		w32("LayoutMajor", 8, creator, "another major version is refused"),
		w32("LayoutMinor", 12, creator, "a newer minor version is accepted"),
		w64("Compat", 16, creator, "feature bits that a reader may ignore"),
		w64("Incompat", 24, creator, "feature bits that a reader must know"),
		w32("HeaderSize", 32, creator, "256; where the body begins"),
		w32("Kind", 36, creator, "see Kind"),
		w64("SegmentSize", 40, creator, "bytes; equals the size of the memfd"),
		w64("Generation", 48, creator, "random, the same in all segments of one region; a new region has another"),
		w64("LayoutHash", 56, creator, "hash of the layout description; a debugging aid, never a reason to refuse"),
		raw("BootID", 64, 16, creator, "the kernel's boot id: memory does not outlive a boot"),
		w64("CreatedUnixNs", 80, creator, "wall clock"),
		text("Name", 96, 64, creator, "name of the segment: roster, command, log, group/NAME or the channel's name"),
		text("Region", 160, 64, creator, "name of the region"),
	}},
	{Name: "RosterInfo", Size: 448, Doc: "Head of the roster.", Fields: []Field{
		w32("DaemonPid", 0, daemon, "pid of the daemon"),
		w32("DaemonState", 4, daemon, "see DaemonState"),
		w64("DaemonStartTicks", 8, daemon, "start time of the daemon's process in clock ticks since boot (/proc/PID/stat field 22)"),
		w64("StartedUnixNs", 16, daemon, "wall clock"),
		w32("SegmentCount", 24, daemon, "rows in use"),
		w32("SegmentCap", 28, creator, "rows there are"),
		w32("GroupCount", 32, daemon, "rows in use"),
		w32("GroupCap", 36, creator, "rows there are"),
		w32("WorkerCount", 40, daemon, "rows in use"),
		w32("WorkerCap", 44, creator, "rows there are"),
		w32("AttachmentCap", 48, creator, "rows there are; row i is attachment id i, row 0 is never used"),
		w32("Change", 52, daemon, "raised and woken (futex) at each change of the roster"),
		w64("SegmentOffset", 56, creator, "of the first SegmentRow"),
		w64("GroupOffset", 64, creator, "of the first GroupRow"),
		w64("WorkerOffset", 72, creator, "of the first WorkerRow"),
		w64("AttachmentOffset", 80, creator, "of the first AttachmentRow"),
		text("Version", 88, 32, daemon, "version of the daemon"),
		text("Config", 120, 192, daemon, "path of the configuration, cut at 192 bytes; empty for the embedded one"),
		text("Dir", 312, 128, creator, "runtime directory of the daemon, symbolic links resolved: with the name it identifies the region"),
		w32("Adopting", 440, daemon, "how many daemons in a row have begun to adopt the region and not finished"),
		w32("ConfigRefused", 444, daemon, "1: the file was refused, and the region goes on with the configuration of the daemon before; 0: it was not"),
	}},
	{Name: "SegmentRow", Size: 128, Doc: "One segment of the region, in the roster's directory.", Fields: []Field{
		w32("Seq", 0, daemon, "odd while the row is being written"),
		w32("Kind", 4, daemon, "see Kind"),
		w64("Size", 8, daemon, "bytes"),
		w64("Inode", 16, daemon, "inode of the memfd: what /proc/PID/fd must show"),
		text("Name", 24, 64, daemon, "as in the header"),
		w32("Stalled", 88, daemon, "of a channel: slots that were held for longer than stall_after when the daemon looked last"),
		w32("Staller", 92, daemon, "of a channel: attachment id of who has held one of them for longest; 0: none"),
		w64("StalledNs", 96, daemon, "of a channel: CLOCK_MONOTONIC when that one was seen first"),
	}},
	{Name: "GroupRow", Size: 320, Doc: "One worker group. Row i of the command segment's group table belongs to it. A row without a name is free.", Fields: []Field{
		w32("Seq", 0, daemon, "odd while the row is being written"),
		w32("Restart", 4, daemon, "see Restart"),
		w32("Configured", 8, daemon, "instances that the configuration asks for"),
		w32("Count", 12, daemon, "instances that are wanted: CommandRow.Count if that is not 0, else Configured"),
		w64("StopTimeoutNs", 16, daemon, "from quit flag to SIGTERM, and from SIGTERM to SIGKILL"),
		text("Name", 24, 64, daemon, "name of the group"),
		text("Command", 88, 96, daemon, "what runs, for people; cut"),
		w32("Most", 184, daemon, "instances that there may be"),
		w32("RolloutState", 188, daemon, "see Rollout"),
		w32("Rollout", 192, daemon, "CommandRow.Restart of the group, as of the rolling restart that RolloutState tells of"),
		w32("Rank", 196, daemon, "how many groups it comes after, one behind the other: of what is stopped together the highest stops first"),
		text("RolloutNote", 200, 120, daemon, "why the rolling restart ended before all had their turn, for people; cut"),
	}},
	{Name: "WorkerRow", Size: 448, Doc: "One instance: its actual state. Row i of the command segment's worker table belongs to it.", Fields: []Field{
		w32("Seq", 0, daemon, "odd while the row is being written"),
		w32("State", 4, daemon, "see State"),
		w32("Pid", 8, daemon, "0 when no process runs"),
		w32("Group", 12, daemon, "index of the GroupRow"),
		w32("Instance", 16, daemon, "number within the group"),
		w32("Attachment", 20, daemon, "attachment id of the running process, 0 for none"),
		w64("StartTicks", 24, daemon, "start time of the process, with Pid (of a filter, ShimPid) its identity"),
		w64("SinceUnixNs", 32, daemon, "since when the state is what it is"),
		w64("Restarts", 40, daemon, "how often it was started again"),
		w32("ExitCode", 48, daemon, "of the last process that ended"),
		w32("ExitSignal", 52, daemon, "of the last process that ended, 0 for none"),
		text("Name", 56, 64, daemon, "GROUP.INSTANCE"),
		text("Reason", 120, 192, daemon, "why the state is what it is, for people; cut"),
		w32("ShimPid", 312, daemon, "of a filter: the process that holds its attachment, and its pipes; Pid is the filter then. 0 for another worker"),
		w32("Stalled", 316, daemon, "1 while a filter does not answer"),
		w32("Restarted", 320, daemon, "CommandRow.Restart plus Rolled, as it was carried out last: if that is another, a restart is due"),
		w32("Rolled", 324, daemon, "CommandRow.Restart of the group, as of the rolling restart whose turn the instance had last"),
		w64("ConfigHash", 328, daemon, "of the part of its group's configuration that the running process was started with; 0 for none"),
		w32("Cause", 336, daemon, "why the last process ended, is asked to, or could not be started: see Cause. 0 while none has"),
		w32("RestartsExit", 340, daemon, "of Restarts, those after CauseExit"),
		w32("RestartsFailure", 344, daemon, "of Restarts, those after CauseFailure"),
		w32("RestartsSignal", 348, daemon, "of Restarts, those after CauseSignal"),
		w32("RestartsNotReady", 352, daemon, "of Restarts, those after CauseNotReady"),
		w32("RestartsNotStarted", 356, daemon, "of Restarts, those after CauseNotStarted"),
		w32("RestartsOperator", 360, daemon, "of Restarts, those after CauseOperator"),
		w32("RestartsWatchdog", 364, daemon, "of Restarts, those after CauseWatchdog"),
		w32("RestartsUnknown", 368, daemon, "of Restarts, those after CauseUnknown"),
		w32("DrainedNumber", 372, daemon, "low half of the number of the last record before Drained; not guarded by Seq"),
		w64("Event", 376, daemon, "number of the event of the last change of State. If the ring has none that new, the daemon died before it wrote it"),
		w64("Drained", 384, daemon, "position up to which the daemon has put the worker's log (WorkerLog) into the region's; not guarded by Seq"),
		w32("RestartsReset", 392, daemon, "of Restarts, those after CauseReset"),
		w32("Trial", 396, daemon, "1 if it counts as ready since its command was executed, for a rolling restart that has not seen it run for a second"),
	}},
	{Name: "AttachmentRow", Size: 128, Doc: "One process that holds segments. The index of the row is the id that stamps slots.", Fields: []Field{
		w32("Seq", 0, daemon, "odd while the row is being written"),
		w32("State", 4, daemon, "see Attachment"),
		w32("Pid", 8, daemon, "process"),
		w32("Uid", 12, daemon, "its user"),
		w64("StartTicks", 16, daemon, "start time of the process"),
		w32("Worker", 24, daemon, "index of its WorkerRow plus 1; 0 for an outsider"),
		w32("Role", 28, daemon, "see Role"),
		text("Name", 32, 64, daemon, "worker's name, or what the outsider called itself"),
	}},
	{Name: "CommandInfo", Size: 512, Doc: "Head of the command segment: the region's quit word and desired state.", Fields: []Field{
		w32("Quit", 0, operator, "low byte: the region's quit flag; the word is the futex"),
		w32("Desired", 64, operator, "see Desired"),
		w64("FlaggedNs", 72, operator, "CLOCK_MONOTONIC at the store of the flag"),
		w32("Bell", 128, operator, "doorbell of the daemon: raised and woken after a change of desired state"),
		w32("GroupCap", 192, creator, "rows there are"),
		w32("WorkerCap", 196, creator, "rows there are"),
		w64("GroupOffset", 200, creator, "of the first CommandRow of the groups"),
		w64("WorkerOffset", 208, creator, "of the first CommandRow of the workers"),
	}},
	{Name: "CommandRow", Size: 64, Doc: "What operators want of one group or one instance.", Fields: []Field{
		w32("Quit", 0, operator, "low byte: the quit flag; the word is the futex"),
		w32("Desired", 4, operator, "see Desired"),
		w32("Restart", 8, operator, "of an instance: raised by one for each restart that is asked for; of a group: for each rolling restart"),
		w32("Count", 12, operator, "of a group: instances wanted; 0: as many as the configuration says"),
		w64("FlaggedNs", 16, operator, "CLOCK_MONOTONIC at the store of the flag"),
		w32("MaxUnavailable", 24, operator, "of a group: how many instances may be missing at a time in a rolling restart; 0: one"),
		w32("Aborted", 28, operator, "of a group: Restart, as of the last rolling restart that is to end where it stands"),
	}},
	{Name: "GroupInfo", Size: 256, Doc: "Head of a group segment.", Fields: []Field{
		w32("Bell", 0, "instances", "doorbell of the daemon: raised and woken when an instance becomes ready"),
		w32("InstanceCap", 64, creator, "instance pages there is room for"),
		w32("InstanceStride", 68, creator, "bytes from one instance page to the next"),
		w64("InstanceOffset", 72, creator, "of the first instance page"),
		w64("MetricOffset", 80, creator, "of the first MetricRow of the first instance; those of the next instance follow"),
		w32("MetricRows", 88, creator, "rows that each instance has"),
		w32("MetricCount", 92, daemon, "rows that have memory: InstanceCount times MetricRows"),
		w32("InstanceCount", 96, daemon, "instances whose pages, metric rows and logs have memory; the others are not to be touched"),
		w32("LogCount", 104, daemon, "WorkerLogs that have memory: InstanceCount, or 0 if there are none"),
		w32("LogStride", 108, creator, "bytes from one WorkerLog to the next"),
		w64("LogOffset", 112, creator, "of the first WorkerLog; its ring follows it"),
		w64("LogSize", 120, creator, "bytes of a ring, a power of two; 0: there are none"),
		w32("LogNap", 128, anyPeer, "see LogNap: what the daemon does between two looks at the instances' logs; an instance that rings zeroes it"),
		w32("LogBell", 132, anyPeer, "doorbell (futex) of the daemon: raised by a record as LogNap says"),
	}},
	{Name: "InstancePage", Size: 4096, Doc: "The page of one instance. The daemon zeroes it before it starts the instance, and only then, but for the restarts: they are kept for an instance that comes back, and for the sums of its group.", Fields: []Field{
		w32("AttachedPid", 0, instance, "pid of the process that attached; 0 while none did"),
		w32("Ready", 4, instance, "1 once the instance is ready"),
		w64("ReadyNs", 8, instance, "CLOCK_MONOTONIC when it became ready"),
		w64("QuitSeenNs", 16, instance, "CLOCK_MONOTONIC when it saw the quit flag: the acknowledgement"),
		w64("HeartbeatNs", 64, instance, "CLOCK_MONOTONIC of the last heartbeat"),
		w32("Asleep", 72, instance, "number of its goroutines that wait in the library; while above 0 no heartbeat is expected"),
		w32("Answered", 76, instance, "the value of Ask that it has answered with a heartbeat"),
		w32("FilterPid", 128, instance, "of a shim: the filter that it runs; 0 before it does"),
		w32("Stalled", 132, instance, "1 while the filter does not answer"),
		text("Note", 136, 192, instance, "what the instance says of its state, for people; the daemon makes it the row's reason"),
		w32("Ask", 384, daemon, "changed when the daemon wants a heartbeat: the instance answers at its next call of the library. Bit 0: it rings the group's doorbell too"),
		w32("RestartsExit", 448, daemon, "of WorkerRow.RestartsExit, what the row says, or said when the instance was there last; kept"),
		w32("RestartsFailure", 452, daemon, "of WorkerRow.RestartsFailure, what the row says, or said when the instance was there last; kept"),
		w32("RestartsSignal", 456, daemon, "of WorkerRow.RestartsSignal, what the row says, or said when the instance was there last; kept"),
		w32("RestartsNotReady", 460, daemon, "of WorkerRow.RestartsNotReady, what the row says, or said when the instance was there last; kept"),
		w32("RestartsNotStarted", 464, daemon, "of WorkerRow.RestartsNotStarted, what the row says, or said when the instance was there last; kept"),
		w32("RestartsOperator", 468, daemon, "of WorkerRow.RestartsOperator, what the row says, or said when the instance was there last; kept"),
		w32("RestartsWatchdog", 472, daemon, "of WorkerRow.RestartsWatchdog, what the row says, or said when the instance was there last; kept"),
		w32("RestartsUnknown", 476, daemon, "of WorkerRow.RestartsUnknown, what the row says, or said when the instance was there last; kept"),
		w32("RestartsReset", 480, daemon, "of WorkerRow.RestartsReset, what the row says, or said when the instance was there last; kept"),
	}},
	{Name: "MetricRow", Size: 256, Doc: "One metric that an instance defined. Once published, nothing in it changes but Value and Owner, for as long as the segment lives: " +
		"the next process of the instance goes on with it, so a counter never goes back. See docs/metrics.md.", Fields: []Field{
		w32("State", 0, instance, "see MetricState; stored last"),
		w32("Kind", 4, instance, "see MetricKind"),
		w64("Value", 8, instance, "by atomic addition: of a counter the count, of a histogram the sum of what it was given; of a gauge the bits of an IEEE 754 double"),
		w32("Owner", 16, instance, "pid of the process that defined it last; the daemon clears it before it starts the next: a gauge whose owner is another says nothing"),
		w32("Rows", 20, instance, "rows that follow and hold its buckets; 0 but for a histogram"),
		text("Name", 64, 64, instance, "lower_snake, without unit"),
		text("Unit", 128, 24, instance, "of the value: bytes, nanoseconds, …; empty for plain numbers"),
		text("Help", 152, 104, instance, "what is counted, for people; cut"),
	}},
	{Name: "MetricBuckets", Size: 256, Doc: "A MetricRow that holds buckets of the histogram before it: State is MetricStateBuckets, the rest is what lies here.", Fields: []Field{
		w32("State", 0, instance, "see MetricState"),
		w64("First", 8, instance, "the first of 31 buckets, 8 bytes each, by atomic addition; which values a bucket counts is in docs/metrics.md"),
	}},
	{Name: "WorkerLog", Size: 256, Doc: "Head of the log of one instance: a ring of records that goes on over the instance's restarts. docs/log.md argues it.", Fields: []Field{
		w64("Head", 0, instance, "position after the newest record; raised, with release, after its bytes are written"),
		w64("Limit", 8, instance, "end of the chunk (an eighth of the ring) that is being written; raised before its first byte is: what lies more than the ring's size before it is given up"),
	}},
	{Name: "WorkerRecord", Size: 40, Doc: "Head of a record in a WorkerLog; text, attributes and source follow, in that order, padded to 8 bytes. A record lies within one chunk.", Fields: []Field{
		w32("Bytes", 0, instance, "bytes of the record with this head, a multiple of 8; 0: the rest of the chunk is empty"),
		w32("Level", 4, instance, "syslog priority: 3 error, 4 warning, 6 info, 7 debug"),
		w64("Seq", 8, instance, "1, 2, 3, … over all instances that wrote here: a gap is what a reader lost"),
		w64("UnixNs", 16, instance, "wall clock"),
		w32("Text", 24, instance, "bytes of text"),
		w32("Attrs", 28, instance, "bytes of attributes: the inside of a JSON object, without its braces"),
		w32("Source", 32, instance, "bytes of the source: FILE:LINE"),
		w32("Pid", 36, instance, "process that wrote it"),
	}},
	{Name: "QueueInfo", Size: 1024, Doc: "Head of a queue: geometry, hints, doorbells. Head and tail are hints; the slots are the truth.", Fields: []Field{
		w32("Slots", 0, creator, "a power of two"),
		w32("SlotSize", 4, creator, "bytes of payload that a slot holds"),
		w32("Stride", 8, creator, "bytes from one slot to the next"),
		w32("MaxDeliveries", 12, creator, "after so many deliveries without an ack a message is dead; 0 for no limit, at most 63"),
		w64("SlotsOffset", 16, creator, "of slot 0"),
		w32("Flags", 24, creator, "see QueueFlag"),
		w32("MaxLeases", 28, creator, "slots that one attachment may have leased at a time; 0 for no limit"),
		w64("Tail", 64, anyPeer, "hint: next position to claim; never lowered, never ahead of the truth"),
		w32("SendOwner", 72, anyPeer, "lane: attachment id of the one producer, 0 for none; cleared by its repair"),
		w64("Head", 128, anyPeer, "hint: first position that may hold a message; lowered when a passed slot becomes ready; lane: first position not taken"),
		w64("Acked", 136, anyPeer, "lane: first position that may be leased still; slots behind it are free unless their word says otherwise"),
		w32("ReceiveOwner", 144, anyPeer, "lane: attachment id of the one consumer, 0 for none; cleared by its repair"),
		w64("ReceiveWaiters", 192, anyPeer, "epoch:32 | one is on its way:1 | consumers asleep:31; a repair raises the epoch and zeroes the rest; lane: not one on its way, but the producer goes without a barrier, which a repair leaves"),
		w64("ReceiveChosenNs", 200, anyPeer, "CLOCK_MONOTONIC when the one that is on its way was chosen or began to look; after a millisecond nobody relies on it. Not used by a lane"),
		w32("ReceiveBell", 256, anyPeer, "doorbell (futex) of the consumers: raised by what was made ready"),
		w64("SendWaiters", 320, anyPeer, "epoch:32 | one is on its way:1 | producers asleep:31"),
		w64("SendChosenNs", 328, anyPeer, "as ReceiveChosenNs, of the producers"),
		w32("SendBell", 384, anyPeer, "doorbell (futex) of the producers: raised by what was freed"),
		w32("Attention", 448, anyPeer, "doorbell (futex) of the daemon: raised when a message became dead"),
		w32("Returned", 452, anyPeer, "lane: raised when a message came back behind the consumer's head"),
		w32("Drain", 456, anyPeer, "not 0: the channel is being drained: a producer that sees it after its claim gives the slot back"),
	}},
	{Name: "QueueCounters", Size: 64, Doc: "One of 16 stripes; an attachment adds to stripe id mod 16. A kill may cost a count of one.", Fields: []Field{
		w64("Sent", 0, anyPeer, "messages committed"),
		w64("Received", 8, anyPeer, "leases taken"),
		w64("Acked", 16, anyPeer, "leases ended by ack"),
		w64("Redelivered", 24, anyPeer, "leases given back, by nack or by repair"),
		w64("Dead", 32, anyPeer, "messages that reached MaxDeliveries"),
		w64("Aborted", 40, anyPeer, "loans given back, by abort or by repair"),
	}},
	{Name: "TopicInfo", Size: 1024, Doc: "Head of a topic: geometry, positions, doorbells.", Fields: []Field{
		w32("Slots", 0, creator, "a power of two"),
		w32("SlotSize", 4, creator, "bytes of payload that a slot holds"),
		w32("Stride", 8, creator, "bytes from one slot to the next"),
		w32("Flags", 12, creator, "see TopicFlag"),
		w64("SlotsOffset", 16, creator, "of slot 0"),
		w32("Headers", 24, creator, "slots that begin with a SlotHeader: all of them, or 0 with the flag Single"),
		w32("Cursors", 28, creator, "rows for subscribers"),
		w64("CursorsOffset", 32, creator, "of the first TopicCursor"),
		w64("LengthsOffset", 40, creator, "with the flag Single: of the lengths, 4 bytes a slot; else 0"),
		w64("EvictAfterNs", 48, creator, "a subscriber that keeps a publisher waiting so long is evicted; 0: never"),
		w64("First", 56, creator, "first position of all"),
		w64("Tail", 64, anyPeer, "next position; with the flag Single what lies before it is published, else it is a hint, never ahead of the truth"),
		w64("Limit", 128, anyPeer, "version:32 | position modulo 2^32: publishers write below it only; subscribers that join raise the version. Without the flag DropOldest"),
		w64("Floor", 192, anyPeer, "with the flag DropOldest: messages below it are given up, raised before they are overwritten"),
		w64("ReceiveWaiters", 256, anyPeer, "epoch:32 | subscribers asleep:32"),
		w32("ReceiveBell", 320, anyPeer, "doorbell (futex) of the subscribers: raised by what was published"),
		w64("SendWaiters", 384, anyPeer, "epoch:32 | publishers asleep:32"),
		w32("SendBell", 448, anyPeer, "doorbell (futex) of the publishers: raised when a cursor moved or ended"),
		w32("Publisher", 512, daemon, "with the flag Single: attachment id that may publish, 0 for none"),
		w32("CursorsUsed", 576, anyPeer, "cursors from this row on were never used; never lowered"),
		w64("Received", 640, anyPeer, "messages that subscribers had read when their cursors ended"),
		w64("Lost", 648, anyPeer, "messages that subscribers had lost when their cursors ended"),
		w64("Skipped", 656, anyPeer, "positions without a message: loans given back, by abort or by repair"),
		w64("Evicted", 664, anyPeer, "cursors that were evicted"),
	}},
	{Name: "TopicCursor", Size: 192, Doc: "One subscriber of a topic.", Fields: []Field{
		w64("State", 0, anyPeer, "one compare-and-swap a transition; bits 0-3 see CursorPhase, 4-19 owner, 20-21 of an evicted one see EvictCause, 32-63 how often the row was opened"),
		w64("Position", 8, rowOwner, "next position to read: everything before it is done"),
		w64("Begun", 16, rowOwner, "position at which it joined"),
		w64("Lost", 24, rowOwner, "messages that were overwritten before it read them"),
		w64("Noted", 64, anyPeer, "opened:32 | by TooSlow:16 | by Operator:16; the row's evictions by cause, counted before it leaves Evicted, and which opening was the last of them"),
		w64("Evicted0", 72, anyPeer, "State of the newest eviction whose number, from 0 on, is 0 modulo 4; stored before it is counted in Noted"),
		w64("Evicted1", 80, anyPeer, "the same, of 1 modulo 4"),
		w64("Evicted2", 88, anyPeer, "the same, of 2 modulo 4"),
		w64("Evicted3", 96, anyPeer, "the same, of 3 modulo 4"),
		w64("Told", 128, daemon, "as Noted: what there is an event of"),
		w64("Telling", 136, daemon, "what Told becomes, once there is the event TellingEvent"),
		w64("TellingEvent", 144, daemon, "number of the event that tells of what Telling counts; stored before Telling. If there is one of that number, it was told"),
	}},
	{Name: "SlotHeader", Size: 16, Doc: "Head of a slot; the payload follows. State is lap:32 | passed:6 | deliveries:6 | owner:16 | phase:4.", Fields: []Field{
		w64("State", 0, anyPeer, "one compare-and-swap a transition; bits 0-3 phase, 4-19 owner, 20-25 deliveries, 26-31 passed (DEAD, MOVING: the DeadReason, 0 for MaxDeliveries), 32-63 lap"),
		w32("Length", 8, "the slot's owner", "bytes of payload; written while WRITING, checked against SlotSize by every reader"),
		w32("Frame", 12, "the slot's owner", "0: the payload is one message; else bits 0-6 number of messages, bit 8 varied sizes, bit 9 deliver one at a time"),
	}},
	{Name: "DeadLetter", Size: 64, Doc: "Head of the payload of a message in a dead-letter channel; the original payload follows.", Fields: []Field{
		w64("Position", 0, daemon, "the message's position in its queue: its identity, by which a repeated move is recognised"),
		w32("Deliveries", 8, daemon, "how often it was delivered"),
		w32("Reason", 12, daemon, "see DeadReason"),
		w64("MovedUnixNs", 16, daemon, "wall clock"),
		w64("Present", 24, daemon, "1: distinguishes position 0 from a slot never used"),
		w32("Index", 32, daemon, "the message's number within its frame, 0 for a slot that was one message: with Position its identity"),
	}},
	{Name: "LatestInfo", Size: 512, Doc: "Head of a latest value: geometry, which slot is the newest, doorbell of those who wait for a change.", Fields: []Field{
		w32("Slots", 0, creator, "versions kept, a power of two"),
		w32("SlotSize", 4, creator, "bytes that a value has at most"),
		w32("Stride", 8, creator, "bytes from one slot to the next"),
		w32("Flags", 12, creator, "see LatestFlag"),
		w64("SlotsOffset", 16, creator, "of slot 0"),
		w64("Current", 64, anyPeer, "version and slot of the newest value, by one compare-and-swap; bits 0-7 slot, 8-63 version; 0 before the first value"),
		w64("Waiters", 128, anyPeer, "epoch:32 | readers that went to sleep since the last wake-up:32"),
		w32("Bell", 192, anyPeer, "doorbell (futex) of the readers: raised by a new value if somebody sleeps"),
		w64("Aborted", 256, anyPeer, "slots given back without a value, by a compare-and-set that came too late or by repair"),
	}},
	{Name: "LatestSlot", Size: 16, Doc: "Head of a version; the value follows. State is version:44 | owner:16 | phase:4.", Fields: []Field{
		w64("State", 0, anyPeer, "one compare-and-swap a transition; bits 0-3 phase, 4-19 owner, 20-63 version"),
		w32("Length", 8, "the slot's owner", "bytes of the value; written while WRITING, checked against SlotSize by every reader"),
	}},
	{Name: "CallInfo", Size: 512, Doc: "Head of a call channel: geometry, hints, doorbells. The slots are the truth.", Fields: []Field{
		w32("Slots", 0, creator, "a power of two"),
		w32("SlotSize", 4, creator, "bytes of payload that a slot holds in each direction"),
		w64("Stride", 8, creator, "bytes from one slot to the next"),
		w64("SlotsOffset", 16, creator, "of slot 0"),
		w32("MaxDeliveries", 24, creator, "so many servers may die with a request before its caller is told; 0 for no limit, at most 63"),
		w32("Flags", 28, creator, "see CallFlag"),
		w64("Reach", 64, anyPeer, "slots from this one on were never used; raised before the first use, never lowered"),
		w64("Tickets", 128, anyPeer, "the next request's ticket"),
		w64("ServeWaiters", 192, anyPeer, "epoch:32 | servers asleep:32; a repair raises the epoch and zeroes the count"),
		w32("ServeBell", 256, anyPeer, "doorbell (futex) of the servers: raised by a request"),
		w64("CallWaiters", 320, anyPeer, "epoch:32 | callers asleep for want of a free slot:32"),
		w32("CallBell", 384, anyPeer, "doorbell (futex) of those callers: raised by what was freed"),
		w32("WantBell", 448, anyPeer, "doorbell (futex) of those who keep a slot between two calls: raised by a caller that finds none free"),
	}},
	{Name: "CallCounters", Size: 64, Doc: "One of 16 stripes; an attachment adds to stripe id mod 16. A kill may cost a count of one.", Fields: []Field{
		w64("Requests", 0, anyPeer, "requests sent"),
		w64("Answered", 8, anyPeer, "answers given, errors included"),
		w64("Retried", 16, anyPeer, "requests given back by a server or by a repair, to be served again"),
		w64("Broken", 24, anyPeer, "requests that failed because their servers died"),
		w64("Left", 32, anyPeer, "requests whose caller left (timeout, cancel, death) before it was answered"),
	}},
	{Name: "CallSlot", Size: 32, Doc: "Head of a call slot; the request follows, and behind it, at the next multiple of 8 within the slot's first cache line or else at a line of its own, " +
		"the reply. State is seq:21 | asleep:1 | deliveries:6 | server:16 | caller:16 | phase:4.", Fields: []Field{
		w64("State", 0, anyPeer, "one compare-and-swap a transition; bits 0-3 phase, 4-19 caller, 20-35 server, 36-41 deliveries, 42 asleep, 43-63 seq"),
		w64("Request", 8, callSide, "length:32 | ticket:32; bytes of the request, checked against SlotSize by every reader; the smallest ticket is served first"),
		w64("Reply", 16, serveSide, "length:32 | code:32; bytes of the reply, checked likewise; code 0 for an answer, else that of an error whose text the reply is"),
		w32("Bell", 24, anyPeer, "doorbell (futex) of the caller: raised by an answer if asleep is set"),
	}},
	{Name: "LogInfo", Size: 256, Doc: "Head of the log segment's ring of records, which the daemon alone writes.", Fields: []Field{
		w64("RingOffset", 0, creator, "of the ring"),
		w64("RingSize", 8, creator, "bytes, a power of two"),
		w64("Tail", 64, daemon, "position of the oldest whole record; raised before its bytes are overwritten"),
		w64("Head", 72, daemon, "position after the newest record; raised after its bytes are written"),
		w32("Bell", 80, daemon, "raised and woken (futex) after a record"),
		w64("Given", 88, daemon, "number of the last record that was handed to standard error or the journal"),
	}},
	{Name: "EventInfo", Size: 256, Doc: "Head of the log segment's ring of events, which the daemon alone writes. Events are LogRecords too.", Fields: []Field{
		w64("RingOffset", 0, creator, "of the ring"),
		w64("RingSize", 8, creator, "bytes, a power of two"),
		w64("Tail", 64, daemon, "position of the oldest whole event; raised before its bytes are overwritten"),
		w64("Head", 72, daemon, "position after the newest event; raised after its bytes are written"),
		w32("Bell", 80, daemon, "raised and woken (futex) after an event"),
	}},
	{Name: "LogRecord", Size: 56, Doc: "Head of a log record; text, attributes and source follow, in that order, padded to 8 bytes. A record may wrap at the end of the ring.", Fields: []Field{
		w32("Length", 0, daemon, "bytes of text"),
		w32("Level", 4, daemon, "syslog priority: 3 error, 4 warning, 6 info, 7 debug"),
		w64("Seq", 8, daemon, "1, 2, 3, …: a gap is what a reader lost"),
		w64("UnixNs", 16, daemon, "wall clock"),
		w32("Pid", 24, daemon, "process that said it"),
		w32("Stream", 28, daemon, "see Stream"),
		w32("Worker", 32, daemon, "index of the WorkerRow plus 1; 0 for the daemon itself"),
		w32("Attrs", 36, daemon, "bytes of attributes: the inside of a JSON object, without its braces"),
		w64("Position", 40, daemon, "of a record that a worker logged: the position behind it in its WorkerLog; else 0"),
		w32("Source", 48, daemon, "bytes of the source: FILE:LINE"),
		w32("Number", 52, daemon, "of a record that a worker logged: the low half of its WorkerRecord.Seq"),
	}},
}

// Consts in the order in which docs/layout.md shows them.
var Consts = []Const{
	{"Kind", "Roster", 1, "directory, worker table, attachment table"},
	{"Kind", "Command", 2, "quit words and desired state"},
	{"Kind", "Group", 3, "one worker group's pages"},
	{"Kind", "Queue", 4, "a channel of kind queue"},
	{"Kind", "Log", 5, "the structured log"},
	{"Kind", "Topic", 6, "a channel of kind topic"},
	{"Kind", "Latest", 7, "a channel of kind latest"},
	{"Kind", "Call", 8, "a channel of kind call"},

	{"DaemonState", "Starting", 1, ""},
	{"DaemonState", "Running", 2, ""},
	{"DaemonState", "Stopping", 3, ""},
	{"DaemonState", "Stopped", 4, "ended in order"},

	{"State", "Starting", 1, "process runs, not ready yet"},
	{"State", "Ready", 2, "process runs and is ready"},
	{"State", "Stopping", 3, "asked to quit, still running"},
	{"State", "Exited", 4, "no process; none is wanted"},
	{"State", "Backoff", 5, "no process; started again after a delay"},
	{"State", "Failed", 6, "no process; given up, see the reason"},
	{"State", "Waiting", 7, "no process; started when other groups or the rest of its own are so far, see the reason"},
	{"State", "Gone", 8, "no process and no instance any more: its group was scaled down or removed; the row may become another's"},

	{"Rollout", "None", 0, "there was none, or another configuration has made up for it"},
	{"Rollout", "Running", 1, "instances are restarted, a few at a time"},
	{"Rollout", "Done", 2, "all instances were restarted and are ready"},
	{"Rollout", "Stopped", 3, "an instance that was restarted did not become ready, or an operator ended it: the others were left alone, see the note"},

	{"Desired", "Run", 0, "the zero value: a new region runs"},
	{"Desired", "Stop", 1, ""},

	{"Restart", "Always", 0, ""},
	{"Restart", "OnFailure", 1, ""},
	{"Restart", "Never", 2, ""},

	{"Cause", "Exit", 1, "exit code 0"},
	{"Cause", "Failure", 2, "another exit code"},
	{"Cause", "Signal", 3, "killed by a signal"},
	{"Cause", "NotReady", 4, "not ready in time"},
	{"Cause", "NotStarted", 5, "its command could not be started"},
	{"Cause", "Operator", 6, "it was asked for: shmctl restart, or stop and start"},
	{"Cause", "Watchdog", 7, "no heartbeat in time"},
	{"Cause", "Unknown", 8, "it ended while it was no child of the daemon, and nobody knows how"},
	{"Cause", "Reset", 9, "another instance of its group crashed, and on_crash is reset-group"},

	{"MetricState", "Free", 0, "the first free row ends the table of an instance"},
	{"MetricState", "Published", 1, "a metric"},
	{"MetricState", "Buckets", 2, "buckets of the histogram before it"},

	{"MetricKind", "Counter", 1, "only grows"},
	{"MetricKind", "Gauge", 2, "goes up and down"},
	{"MetricKind", "Histogram", 3, "how often which value"},

	{"Attachment", "Free", 0, ""},
	{"Attachment", "Live", 1, ""},
	{"Attachment", "Repairing", 2, "its process is dead; its slots are being given back"},

	{"Role", "Daemon", 1, ""},
	{"Role", "Worker", 2, ""},
	{"Role", "Observe", 3, "read-only descriptors"},
	{"Role", "Operate", 4, "command segment writable"},

	{"Phase", "Free", 0, "holds nothing; lap is that of the next position"},
	{"Phase", "Writing", 1, "loaned to a producer"},
	{"Phase", "Ready", 2, "holds a message"},
	{"Phase", "Reading", 3, "leased to a consumer"},
	{"Phase", "Dead", 4, "holds a message that is to be moved to the dead-letter channel"},
	{"Phase", "Moving", 5, "the daemon copies it to the dead-letter channel"},
	{"Phase", "Skip", 6, "of a topic: holds no message, its publisher gave it back or died"},

	{"CallPhase", "Free", 0, "holds nothing"},
	{"CallPhase", "Calling", 1, "a caller writes its request"},
	{"CallPhase", "Request", 2, "holds a request"},
	{"CallPhase", "Serving", 3, "a server works at it; caller is 0 if that has left"},
	{"CallPhase", "Answered", 4, "holds a reply; the caller's until it frees the slot or sends its next request"},
	{"CallPhase", "Broken", 5, "the server died, and the request is not served again; the caller's as Answered"},

	{"CallFlag", "Sparse", 1, "slots are not allocated in advance"},
	{"CallFlag", "FailOnDeath", 2, "a request whose server died fails; else it is served again"},

	{"QueueFlag", "Sparse", 1, "slots are not allocated in advance"},
	{"QueueFlag", "DeadLetter", 2, "a dead-letter channel: payloads begin with DeadLetter"},
	{"QueueFlag", "Lane", 4, "one producer and one consumer: see docs/lane.md"},

	{"LatestFlag", "Sparse", 1, "slots are not allocated in advance"},

	{"TopicFlag", "Sparse", 1, "slots are not allocated in advance"},
	{"TopicFlag", "DropOldest", 2, "publishers overwrite what subscribers have not read; without it they wait"},
	{"TopicFlag", "Single", 4, "one publisher at a time: slots have no headers"},
	{"TopicFlag", "Fenced", 8, "publishers and subscribers make no full barriers: who goes to sleep makes them, by membarrier"},

	{"CursorPhase", "Free", 0, "nobody's"},
	{"CursorPhase", "Joining", 1, "taken; publishers do not look at it yet"},
	{"CursorPhase", "Open", 2, "a subscriber reads from its position on"},
	{"CursorPhase", "Evicted", 3, "publishers do not look at it any more; its owner finds out"},

	{"EvictCause", "TooSlow", 1, "it kept a publisher waiting for evict_after"},
	{"EvictCause", "Operator", 2, "it was asked for: shmctl ch evict, top, or a program"},

	{"DeadReason", "MaxDeliveries", 1, "delivered too often without an ack"},
	{"DeadReason", "Delimiter", 2, "the payload holds the delimiter of the filter that was to read it"},
	{"DeadReason", "Answer", 3, "the answer to it is larger than a slot of the channel that it was for"},

	{"Stream", "Daemon", 1, "the daemon's own records"},
	{"Stream", "Stdout", 2, "a line that a worker wrote to standard output"},
	{"Stream", "Stderr", 3, "a line that a worker wrote to standard error"},
	{"Stream", "Log", 4, "a record that a worker logged"},
	{"Stream", "Event", 5, "a change of state, in the ring of events"},

	{"LogNap", "Awake", 0, "it looks again by itself, or there is no daemon: nobody rings"},
	{"LogNap", "Naps", 1, "it looks again soon: an instance rings that has filled half its ring since"},
	{"LogNap", "Sleeps", 2, "an instance rings after its next record"},
}

// Sections say what lies where in a segment of each kind.
var Sections = []Section{
	{"*", "SegmentHeader", "0", "", "1", ""},
	{"roster", "RosterInfo", "256", "", "1", ""},
	{"roster", "SegmentRow", "RosterInfo.SegmentOffset", "128", "RosterInfo.SegmentCount", ""},
	{"roster", "GroupRow", "RosterInfo.GroupOffset", "320", "RosterInfo.GroupCount", ""},
	{"roster", "WorkerRow", "RosterInfo.WorkerOffset", "448", "RosterInfo.WorkerCount", ""},
	{"roster", "AttachmentRow", "RosterInfo.AttachmentOffset", "128", "RosterInfo.AttachmentCap", ""},
	{"command", "CommandInfo", "256", "", "1", ""},
	{"command", "CommandRow", "CommandInfo.GroupOffset", "64", "CommandInfo.GroupCap", "groups"},
	{"command", "CommandRow", "CommandInfo.WorkerOffset", "64", "CommandInfo.WorkerCap", "workers"},
	{"group", "GroupInfo", "256", "", "1", ""},
	{"group", "InstancePage", "GroupInfo.InstanceOffset", "GroupInfo.InstanceStride", "GroupInfo.InstanceCount", ""},
	{"group", "MetricRow", "GroupInfo.MetricOffset", "256", "GroupInfo.MetricCount", ""},
	{"group", "WorkerLog", "GroupInfo.LogOffset", "GroupInfo.LogStride", "GroupInfo.LogCount", ""},
	{"queue", "QueueInfo", "256", "", "1", ""},
	{"queue", "QueueCounters", "1280", "64", "16", "stripes"},
	{"queue", "SlotHeader", "QueueInfo.SlotsOffset", "QueueInfo.Stride", "QueueInfo.Slots", ""},
	{"latest", "LatestInfo", "256", "", "1", ""},
	{"latest", "LatestSlot", "LatestInfo.SlotsOffset", "LatestInfo.Stride", "LatestInfo.Slots", ""},
	{"call", "CallInfo", "256", "", "1", ""},
	{"call", "CallCounters", "768", "64", "16", "stripes"},
	{"call", "CallSlot", "CallInfo.SlotsOffset", "CallInfo.Stride", "CallInfo.Slots", ""},
	{"topic", "TopicInfo", "256", "", "1", ""},
	{"topic", "TopicCursor", "TopicInfo.CursorsOffset", "192", "TopicInfo.Cursors", ""},
	{"topic", "SlotHeader", "TopicInfo.SlotsOffset", "TopicInfo.Stride", "TopicInfo.Headers", ""},
	{"log", "LogInfo", "256", "", "1", ""},
	{"log", "EventInfo", "512", "", "1", ""},
}
