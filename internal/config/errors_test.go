package config

import (
	"strings"
	"testing"
)

// bad holds texts and the exact problems that are found in each.
var bad = []struct {
	name string
	text string
	want string // one problem a line, without the file's name
}{
	{"unknown key", "[worker.parser]\nbuiltin = \"idle\"\ncoutn = 4",
		`3:1: unknown key "coutn" in [worker.parser]; did you mean "count"?`},
	{"unknown keys, all of them", `
[region]
nmae = "x"
hugepages = true
Mlock = true
slots = 4
colour = "red"
[worker.w]
builtin = "idle"
instances = 4
cwd = "/"
timeout = "5s"
crash = "5s"
input = "jobs"
`, `
3:1: unknown key "nmae" in [region]; did you mean "name"?
4:1: unknown key "hugepages" in [region]; did you mean "huge_pages"?
5:1: unknown key "Mlock" in [region]; did you mean "mlock"?
6:1: unknown key "slots" in [region]; it belongs below a header [channel.NAME]
7:1: unknown key "colour" in [region]; there are name, log_size, events_size, max_attachments, max_attachments_per_user, orphan_timeout, huge_pages, mlock, prefault, dont_dump, dumps, dump_size, dump_dir
10:1: unknown key "instances" in [worker.w]; did you mean "count"?
11:1: unknown key "cwd" in [worker.w]; did you mean "dir"?
12:1: unknown key "timeout" in [worker.w]; did you mean "stop_timeout"?
13:1: unknown key "crash" in [worker.w]; did you mean "crash_limit"?
14:1: unknown key "input" in [worker.w]; did you mean "consume"?`},
	{"top of the file", "name = \"x\"\nslots = 4\nregoin = 1\nfoo = 1",
		`1:1: unknown key "name" at the top of the file; it belongs below a header [region]
2:1: unknown key "slots" at the top of the file; it belongs below a header [channel.NAME]
3:1: unknown key "regoin" at the top of the file; did you mean "region"?
4:1: unknown key "foo" at the top of the file; there are [region], [channel.NAME], [worker.NAME], [access], [metrics]`},
	{"unknown tables", "[wroker.a]\n[groups.a]\n[dataset.words]\nfile = \"/x\"\n[Channel.x]",
		`1:2: unknown table "wroker"; did you mean "worker"?
2:2: unknown table "groups"; did you mean "worker"?
3:2: unknown table "dataset"; there are [region], [channel.NAME], [worker.NAME], [access], [metrics]
5:2: unknown table "Channel"; did you mean "channel"?`},
	{"no table", "region = \"x\"\nworker = []\naccess = 1979-05-27",
		`1:1: region must be a table, not the string "x"; write [region] and its keys below
2:1: worker must be a table, not an array; write [worker.NAME] and its keys below
3:1: access must be a table, not the date or time 1979-05-27; write [access] and its keys below`},
	{"double brackets", "[[region]]\n[[channel.q]]\nslots = 3\n[[channel.q]]\n[[worker]]\n[[worker]]",
		`1:3: write [region] in single brackets, not [[region]]
2:11: write [channel.q] in single brackets, not [[channel.q]]
5:3: write [worker.NAME] in single brackets, not [[worker]]`},
	{"keys beside named tables", "[channel]\nslots = 2\nx = 3\n[worker]\nrun = [\"x\"]",
		`2:1: "slots" stands in [channel], which holds tables only; put it below a header [channel.NAME]
3:1: channel.x must be a table, not the integer 3; write [channel.x] and its keys below
5:1: "run" stands in [worker], which holds tables only; put it below a header [worker.NAME]`},
	{"types", `
[region]
name = 7
log_size = 4.5
max_attachments = "12"
huge_pages = "yes"
mlock = 0
prefault = "maybe"
[channel.c]
slots = "many"
slot_size = ["4KiB"]
max_deliveries = 9223372036854775808
allow_produce = "alice"
[worker.w]
command = "python3 parse.py"
count = 2.0
consume = ["c", 1, "d"]
produce = [["c"]]
stop_timeout = 5
backoff_min = 0.5
restart = false
env = "A=1"
[worker.v]
builtin = "idle"
env = { A = 1, B = true, C = { D = "x" }, E = "e" }
consume.x = 1
`, `
3:1: name in [region]: must be a string, not the integer 7; write name = "7"
4:1: log_size in [region]: must be a size such as "4KiB", or an integer of bytes, not the number 4.5
5:1: max_attachments in [region]: must be an integer, not the string "12"; write max_attachments = 12 without quotes
6:1: huge_pages in [region]: must be true or false, not the string "yes"; write huge_pages = true
7:1: mlock in [region]: must be true or false, not the integer 0; write mlock = false
8:1: prefault in [region]: must be true or false, not the string "maybe"
10:1: slots in [channel.c]: must be an integer, not the string "many"
11:1: slot_size in [channel.c]: must be a size such as "4KiB", or an integer of bytes, not an array
12:1: max_deliveries in [channel.c]: the number has more than 63 bits; write a smaller one
13:1: allow_produce in [channel.c]: must be an array of strings, not the string "alice"; write allow_produce = ["alice"]
15:1: command in [worker.w]: must be an array of strings, not the string "python3 parse.py"; write command = ["python3", "parse.py"]
16:1: count in [worker.w]: must be an integer, not the number 2.0
17:1: consume in [worker.w]: must be an array of strings, but element 2 is the integer 1; write "1"
18:1: produce in [worker.w]: must be an array of strings, but element 1 is an array
19:1: stop_timeout in [worker.w]: must be a duration such as "5s", not the integer 5; write stop_timeout = "5s" for seconds
20:1: backoff_min in [worker.w]: must be a duration such as "5s", not the number 0.5; write backoff_min = "0.5s" for seconds
21:1: restart in [worker.w]: must be a string, not false
22:1: env in [worker.w]: must be a table of strings, not the string "A=1"
25:9: env.A in [worker.v]: must be a string, not the integer 1; write "1"
25:16: env.B in [worker.v]: must be a string, not true; write "true"
25:26: env.C in [worker.v]: must be a string, not a table
26:1: consume in [worker.v]: must be an array of strings, not a table`},

	{"names", `
[region]
name = ""
[channel.Jobs]
[channel."a/b"]
[channel._x]
[channel.1-2_3]
[channel.abcdefghijklmnopqrstuvwxyz0123456]
[channel."ß"]
[worker."par ser"]
builtin = "idle"
[worker."a\nb"]
builtin = "idle"
`, `
3:1: name in [region]: "" is not allowed; a name is 1 to 31 characters of a-z, 0-9, "-" and "_", and begins with a letter or a digit
4:10: [channel.Jobs]: "Jobs" is not allowed; a name is 1 to 31 characters of a-z, 0-9, "-" and "_", and begins with a letter or a digit; did you mean "jobs"?
5:10: [channel."a/b"]: "a/b" is not allowed; a name is 1 to 31 characters of a-z, 0-9, "-" and "_", and begins with a letter or a digit; did you mean "a-b"?
6:10: [channel._x]: "_x" is not allowed; a name is 1 to 31 characters of a-z, 0-9, "-" and "_", and begins with a letter or a digit; did you mean "x"?
8:10: [channel.abcdefghijklmnopqrstuvwxyz0123456]: "abcdefghijklmnopqrstuvwxyz0123456" is not allowed; a name is 1 to 31 characters of a-z, 0-9, "-" and "_", and begins with a letter or a digit; did you mean "abcdefghijklmnopqrstuvwxyz01234"?
9:10: [channel."ß"]: "ß" is not allowed; a name is 1 to 31 characters of a-z, 0-9, "-" and "_", and begins with a letter or a digit
10:9: [worker."par ser"]: "par ser" is not allowed; a name is 1 to 31 characters of a-z, 0-9, "-" and "_", and begins with a letter or a digit; did you mean "par-ser"?
12:9: [worker."a\nb"]: "a\nb" is not allowed; a name is 1 to 31 characters of a-z, 0-9, "-" and "_", and begins with a letter or a digit; did you mean "ab"?`},
	{"no name is made of what is left of letters", `
[channel."ünï"]
slots = -4
[channel."größe.dead"]
[channel.jobs]
[worker.w]
builtin = "idle"
consume = ["ünï2", "größe", "jöbs"]
after = ["日本"]
`, `
2:10: [channel."ünï"]: "ünï" is not allowed; a name is 1 to 31 characters of a-z, 0-9, "-" and "_", and begins with a letter or a digit
3:1: slots in [channel."ünï"]: -4 is out of range; use a power of two from 2 to 1048576
4:10: [channel."größe.dead"]: "größe.dead" is not allowed; a name is 1 to 31 characters of a-z, 0-9, "-" and "_", and begins with a letter or a digit
8:1: consume in [worker.w]: "ünï2" is not allowed; a name is 1 to 31 characters of a-z, 0-9, "-" and "_", and begins with a letter or a digit
8:1: consume in [worker.w]: "größe" is not allowed; a name is 1 to 31 characters of a-z, 0-9, "-" and "_", and begins with a letter or a digit
8:1: consume in [worker.w]: "jöbs" is not allowed; a name is 1 to 31 characters of a-z, 0-9, "-" and "_", and begins with a letter or a digit
9:1: after in [worker.w]: "日本" is not allowed; a name is 1 to 31 characters of a-z, 0-9, "-" and "_", and begins with a letter or a digit`},
	{"reserved channels", "[channel.roster]\n[channel.command]\n[channel.log]\n[channel.group]\n[channel.\"jobs.dead\"]\n[channel.jobs.dead]",
		`1:10: [channel.roster]: "roster" is the name of a segment of the region; call the channel otherwise, as in "rosters"
2:10: [channel.command]: "command" is the name of a segment of the region; call the channel otherwise, as in "commands"
3:10: [channel.log]: "log" is the name of a segment of the region; call the channel otherwise, as in "logs"
4:10: [channel.group]: "group" is the name of a segment of the region; call the channel otherwise, as in "groups"
5:10: [channel."jobs.dead"]: names that end in ".dead" are for the dead letters of other channels; call it "jobs-dead"
6:15: dead cannot be declared: the daemon makes it for the dead letters; set dead_slots in [channel.jobs]`},

	{"keys of other kinds", `
[channel.price]
kind = "latest"
slots = 2
max_deliveries = 99
dead_slots = 3
[channel.level]
kind = "latest"
slots = 512
`, `
4:1: slots in [channel.price]: 2 is out of range; use a power of two from 4 to 256
5:1: max_deliveries in [channel.price]: a channel of kind "latest" has no such key, it is for kind "queue", "call"; remove it
6:1: dead_slots in [channel.price]: a channel of kind "latest" has no such key, it is for kind "queue"; remove it
9:1: slots in [channel.level]: 512 is out of range; use a power of two from 4 to 256`},
	{"topics", `
[channel.q]
subscribers = 4
publishers = 1
[channel.t]
kind = "topic"
max_deliveries = 3
dead_slots = 2
overflow = "drop_oldest"
publishers = 2
subscribers = 0
evict_after = "25h"
[channel.u]
kind = "topic"
overflow = "drop-oldest"
publishers = 1
evict_after = "1s"
[worker.a]
builtin = "idle"
count = 2
produce = ["u"]
[worker.b]
builtin = "idle"
produce = ["u"]
[worker.c]
builtin = "idle"
produce = ["u"]
`,
		`3:1: subscribers in [channel.q]: a channel of kind "queue" has no such key, it is for kind "topic"; remove it
4:1: publishers in [channel.q]: a channel of kind "queue" has no such key, it is for kind "topic"; remove it
7:1: max_deliveries in [channel.t]: a channel of kind "topic" has no such key, it is for kind "queue", "call"; remove it
8:1: dead_slots in [channel.t]: a channel of kind "topic" has no such key, it is for kind "queue"; remove it
9:1: overflow in [channel.t]: unknown overflow "drop_oldest"; did you mean "drop-oldest"?
10:1: publishers in [channel.t]: 2 is out of range; use 0 to 1
11:1: subscribers in [channel.t]: 0 is out of range; use 1 to 4096
12:1: evict_after in [channel.t]: 25h is out of range; use 0s to 24h
17:1: evict_after in [channel.u]: with overflow = "drop-oldest" no subscriber keeps a publisher waiting; remove one of them
21:1: produce in [worker.a]: channel "u" has publishers = 1, and this group has 2 instances; give it one, or remove publishers
27:1: produce in [worker.c]: channel "u" has publishers = 1, and group "b" produces it already; remove one of them`},

	{"channel values", `
[region]
log_size = "3MiB"
max_attachments = 40000
[channel.a]
kind = "bus"
slots = 1000
slot_size = 0
max_deliveries = 64
dead_slots = 3
allow_produce = ["", "@", "a b"]
[channel.b]
kind = "Queue"
slots = 0
slot_size = "2GiB"
max_deliveries = -1
dead_slots = 0
[channel.c]
slots = 1048577
slot_size = "9000000TiB"
[channel.d]
slots = 1048576
slot_size = "128MiB"
`, `
3:1: log_size in [region]: 3MiB is not a power of two; the nearest are 2MiB and 4MiB
4:1: max_attachments in [region]: 40000 is out of range; use 0 to 32768
6:1: kind in [channel.a]: unknown kind "bus"; there are "queue", "topic", "latest", "call"
7:1: slots in [channel.a]: 1000 is not a power of two; the nearest are 512 and 1024
8:1: slot_size in [channel.a]: 0B is out of range; use 1B to 1GiB
9:1: max_deliveries in [channel.a]: 64 is out of range; use 0 to 63
10:1: dead_slots in [channel.a]: 3 is not a power of two; the nearest are 2 and 4
11:1: allow_produce in [channel.a]: "": the name is empty; write a user as "alice", a group as "@ops", everybody as "*"
11:1: allow_produce in [channel.a]: "@": the name is empty; write a user as "alice", a group as "@ops", everybody as "*"
11:1: allow_produce in [channel.a]: "a b": the name holds a character that no name has; write a user as "alice", a group as "@ops", everybody as "*"
13:1: kind in [channel.b]: unknown kind "Queue"; did you mean "queue"?
14:1: slots in [channel.b]: 0 is out of range; use a power of two from 2 to 1048576
15:1: slot_size in [channel.b]: 2GiB is out of range; use 1B to 1GiB
16:1: max_deliveries in [channel.b]: -1 is out of range; use 0 to 63
17:1: dead_slots in [channel.b]: 0 is out of range; use a power of two from 2 to 1048576
19:1: slots in [channel.c]: 1048577 is out of range; use a power of two from 2 to 1048576
20:1: slot_size in [channel.c]: "9000000TiB" is more than 63 bits of bytes; use a smaller size
22:1: slots in [channel.d]: 1048576 slots of 128MiB are more than the 64TiB that a process can map; use fewer or smaller ones`},
	{"keys of kinds other than call", "[channel.a]\nkind = \"call\"\ndead_slots = 4\n[channel.b]\non_server_death = \"retry\"\n[channel.c]\nkind = \"call\"\non_server_death = \"ignore\"\n[channel.d]\nkind = \"call\"\non_server_death = \"retri\"",
		`3:1: dead_slots in [channel.a]: a channel of kind "call" has no such key, it is for kind "queue"; remove it
5:1: on_server_death in [channel.b]: a channel of kind "queue" has no such key, it is for kind "call"; remove it
8:1: on_server_death in [channel.c]: unknown on_server_death "ignore"; there are "retry", "fail"
11:1: on_server_death in [channel.d]: unknown on_server_death "retri"; did you mean "retry"?`},
	{"sizes", "[channel.a]\nslot_size = \"4k\"\n[channel.b]\nslot_size = \"4096\"\n[channel.c]\nslot_size = \"big\"\n[channel.d]\nslot_size = \"-1B\"\n[channel.e]\nslot_size = \"1.5KiB\"",
		`2:1: slot_size in [channel.a]: "4k" is not a size; did you mean "4KiB"?
4:1: slot_size in [channel.b]: "4096" is not a size; did you mean "4096B"?
6:1: slot_size in [channel.c]: "big" is not a size; write a whole number and B, KiB, MiB, GiB or TiB, as in "4KiB"
8:1: slot_size in [channel.d]: "-1B" is not a size; write a whole number and B, KiB, MiB, GiB or TiB, as in "4KiB"
10:1: slot_size in [channel.e]: "1.5KiB" is not a size; write a whole number and B, KiB, MiB, GiB or TiB, as in "4KiB"`},
	{"lanes", `
[channel.a]
producers = 1
[channel.b]
consumers = 1
[channel.c]
producers = 2
consumers = 1
[channel.d]
producers = 1
consumers = 1
[channel.e]
kind = "latest"
producers = 1
[worker.a]
builtin = "idle"
produce = ["d"]
count = 2
[worker.b]
builtin = "idle"
consume = ["d"]
[worker.c]
builtin = "idle"
consume = ["d"]
`, `3:1: producers in [channel.a]: one end alone gains nothing; add consumers = 1 if that is so, or remove the key
5:1: consumers in [channel.b]: one end alone gains nothing; add producers = 1 if that is so, or remove the key
7:1: producers in [channel.c]: 2 is out of range; use 0 to 1
14:1: producers in [channel.e]: a channel of kind "latest" has no such key, it is for kind "queue"; remove it
17:1: produce in [worker.a]: channel "d" has one producer (producers = 1), and this group has 2 instances; make it count = 1, or remove producers and consumers of the channel
24:1: consume in [worker.c]: channel "d" has one consumer (consumers = 1), and that is worker "b"; remove the key there, or one of the two here`},
	{"max_leases", "[channel.a]\nslots = 4\nmax_leases = 5\n[channel.b]\nmax_leases = -1\n[channel.c]\nproducers = 1\nconsumers = 1\nmax_leases = 1\n[channel.d]\nprefetch = 1",
		`3:1: max_leases in [channel.a]: 5 is more than the 4 slots that there are; use 4 or less, or remove the key
5:1: max_leases in [channel.b]: -1 is out of range; use 0 to 1048576
9:1: max_leases in [channel.c]: a channel with one consumer has nobody to share with; remove the key, or producers and consumers
11:1: unknown key "prefetch" in [channel.d]; did you mean "max_leases"?`},
	{"sparse and huge", "[region]\nhuge_pages = true\n[channel.a]\nsparse = true",
		`4:1: sparse in [channel.a]: a sparse channel cannot lie in huge pages; remove sparse here, or huge_pages in [region]`},

	{"logs of a group", "[worker.a]\nbuiltin = \"idle\"\nlog_size = \"8KiB\"\nlog_rate = -1\nlog_burst = 0", `
3:1: log_size in [worker.a]: 8KiB is out of range; use a power of two from 16KiB to 1GiB
4:1: log_rate in [worker.a]: -1 is out of range; use 0 to 1073741824
5:1: log_burst in [worker.a]: 0 is out of range; use 1 to 1073741824`},

	{"crash limits that are never reached", `
[worker.a]
builtin = "idle"
crash_limit = 10
crash_window = "1m"
[worker.b]
builtin = "idle"
crash_limit = 30
[worker.c]
builtin = "idle"
backoff_min = "2m"
backoff_max = "3m"
[worker.d]
builtin = "idle"
crash_limit = 10
crash_window = "82s"
[worker.e]
builtin = "idle"
crash_limit = 0
crash_window = "1ms"
`, `
5:1: crash_window in [worker.a]: the delays before 10 restarts (backoff_min 100ms, doubling up to backoff_max 30s) take longer than 1m, so crash_limit is never reached and a worker that always ends at once is never given up; use a longer crash_window, a lower crash_limit, or crash_limit = 0 for never`},
	{"group values", `
[worker.a]
builtin = "idel"
count = 0
restart = "on_failure"
stop_timeout = "5"
ready_timeout = "-1s"
backoff_min = "1h"
backoff_max = "25h"
crash_limit = -1
crash_window = "0s"
metrics = 1025
dir = "tmp"
user = "a:b"
[worker.b]
command = []
ready = "later"
count = 1025
restart = "sometimes"
stop_timeout = "soon"
backoff_min = "2s"
backoff_max = "1s"
dir = ""
user = ""
[worker.c]
ready = ""
command = [""]
backoff_min = "1m"
[worker.d]
command = ["a\u0000", "b"]
env = { "" = "x", "A=B" = "x", SHMD_WORKER = "x", C = "\u0000" }
`, `
3:1: builtin in [worker.a]: unknown builtin "idel"; did you mean "idle"?
4:1: count in [worker.a]: 0 is out of range; use 1 to 1024
5:1: restart in [worker.a]: unknown restart "on_failure"; did you mean "on-failure"?
6:1: stop_timeout in [worker.a]: "5" has no unit; did you mean "5s"?
7:1: ready_timeout in [worker.a]: "-1s" is below zero; use a positive duration
9:1: backoff_max in [worker.a]: 25h is out of range; use 1ms to 24h
10:1: crash_limit in [worker.a]: -1 is out of range; use 0 to 1048576
11:1: crash_window in [worker.a]: 0s is out of range; use 1ms to 24h
12:1: metrics in [worker.a]: 1025 is out of range; use 0 to 1024
13:1: dir in [worker.a]: "tmp" is not absolute; begin it with /
14:1: user in [worker.a]: the name holds a character that no name has; give a user's name or its uid, or remove the key for the daemon's own
16:1: command in [worker.b]: it is empty; write command = ["program", "argument"]
17:1: ready in [worker.b]: unknown ready "later"; there are "exec", "call"
18:1: count in [worker.b]: 1025 is out of range; use 1 to 1024
19:1: restart in [worker.b]: unknown restart "sometimes"; there are "always", "on-failure", "never"
20:1: stop_timeout in [worker.b]: "soon" is not a duration; write a number and ms, s, m or h, as in "5s" or "1m30s"
22:1: backoff_max in [worker.b]: backoff_max (1s) is less than backoff_min (2s); raise the one or lower the other
23:1: dir in [worker.b]: it is empty; give a directory, or remove the key for the daemon's own
24:1: user in [worker.b]: the name is empty; give a user's name or its uid, or remove the key for the daemon's own
26:1: ready in [worker.c]: unknown ready ""; there are "exec", "call"
27:1: command in [worker.c]: the program's name is empty; write its path, or a name to find in PATH
28:1: backoff_min in [worker.c]: backoff_max (30s) is less than backoff_min (1m); raise the one or lower the other
30:1: command in [worker.d]: "a\x00" holds a NUL, which no system call takes; remove it
31:9: env."" in [worker.d]: the name is empty; remove it
31:19: env."A=B" in [worker.d]: a name holds neither = nor NUL; rename it
31:32: env.SHMD_WORKER in [worker.d]: the daemon sets it; remove it
31:51: env.C in [worker.d]: the value holds a NUL; remove it`},
	{"nothing or too much to run", "[worker.a]\n[worker.b]\ncommand = [\"x\"]\nbuiltin = \"idle\"\n[worker.c]\nbuiltin = \"\"",
		`1:9: [worker.a]: it has nothing to run; add command = ["program", "argument"] or builtin = "idle"
2:9: [worker.b]: it has both command and builtin; remove one of them
6:1: builtin in [worker.c]: unknown builtin ""; there are "wordcount", "idle", "echo"`},
	{"channels of a group", `
[channel.jobs]
[channel.results]
[worker.a]
builtin = "idle"
consume = ["jbos", "jobs", "jobs", "jobs.dead"]
produce = ["words", ""]
`, `
6:1: consume in [worker.a]: unknown channel "jbos"; did you mean "jobs"?
6:1: consume in [worker.a]: "jobs" is there twice; remove one
6:1: consume in [worker.a]: "jobs.dead" holds the dead letters of "jobs" and is not for workers; name a channel of the configuration
7:1: produce in [worker.a]: unknown channel "words"; name one of jobs, results, or add a table [channel.words]
7:1: produce in [worker.a]: "" is not allowed; a name is 1 to 31 characters of a-z, 0-9, "-" and "_", and begins with a letter or a digit`},
	{"no channels at all", "[worker.a]\nbuiltin = \"idle\"\nconsume = [\"jobs\"]",
		`3:1: consume in [worker.a]: unknown channel "jobs"; there are none, add a table [channel.jobs]`},
	{"builtin ends", `
[channel.a]
[channel.b]
[worker.v]
builtin = "echo"
[worker.w]
builtin = "wordcount"
consume = ["a", "b"]
produce = []
[worker.x]
builtin = "echo"
consume = ["a"]
produce = ["a"]
`, `
4:9: [worker.v]: builtin "echo" needs exactly one channel to consume; add consume = ["CHANNEL"]
4:9: [worker.v]: builtin "echo" needs exactly one channel to produce; add produce = ["CHANNEL"]
8:1: consume in [worker.w]: builtin "wordcount" needs exactly one channel here, not 2; write consume = ["CHANNEL"]
9:1: produce in [worker.w]: builtin "wordcount" needs exactly one channel here, not 0; write produce = ["CHANNEL"]
13:1: produce in [worker.x]: builtin "echo" would feed itself: it consumes "a" as well; name another channel`},
	{"ends of builtin workers", `
[channel.a]
[channel.t]
kind = "topic"
[channel.v]
kind = "latest"
[worker.w]
builtin = "echo"
consume = ["t"]
produce = ["a"]
[worker.x]
builtin = "wordcount"
consume = ["a"]
produce = ["v"]
[worker.y]
command = ["cat"]
stdin = "t"
stdout = "a"
`, `
9:1: consume in [worker.w]: "t" is a topic, and builtin "echo" moves messages from queue to queue; name a queue
14:1: produce in [worker.x]: "v" is a latest, and builtin "wordcount" moves messages from queue to queue; name a queue
17:1: stdin in [worker.y]: "t" is a topic, and a filter reads and writes queues; a topic gives back nothing that a filter died with: name a queue, and let a worker fill it, a shell with shmctl sub t | shmctl pub QUEUE`},
	{"filters", `
[channel.a]
slots = 4
[channel.b]
max_deliveries = 0
[channel.c]
max_deliveries = 1
[worker.a]
command = ["x"]
stdin = "a"
stdout = "a"
filter_window = 0
ack = "writen"
delimiter = "\n"
stall_timeout = "25h"
[worker.b]
command = ["x"]
stdin = "b"
stdout = "c"
consume = ["c"]
produce = ["a"]
ready = "call"
[worker.c]
command = ["x"]
stdin = "a"
filter_window = 70000
[worker.d]
command = ["x"]
stdin = "a"
filter_window = 8
ack = "written"
[worker.e]
command = ["x"]
stdin = "c"
stdout = "a"
filter_window = 2
[worker.f]
command = ["x"]
stdin = "a"
stdout = "b"
filter_window = 8
`, `
11:1: stdout in [worker.a]: the filter would feed itself: it reads "a" as well; name another channel
12:1: filter_window in [worker.a]: 0 is out of range; use 1 to 65536
13:1: ack in [worker.a]: unknown ack "writen"; did you mean "written"?
14:1: delimiter in [worker.a]: unknown delimiter "\n"; there are "newline", "nul"
15:1: stall_timeout in [worker.a]: 25h is out of range; use 0s to 24h
18:1: stdin in [worker.b]: "b" has max_deliveries = 0, and messages that no filter can take need its dead letters; give it 1 to 63
20:1: consume in [worker.b]: a filter has no channels but stdin and stdout; remove it, or remove those
21:1: produce in [worker.b]: a filter has no channels but stdin and stdout; remove it, or remove those
22:1: ready in [worker.b]: a filter cannot say that it is ready; remove the key: it is ready when it runs
25:1: stdin in [worker.c]: without stdout nothing tells when a message is done; add ack = "written" (what the filter has not finished when it dies is lost), or stdout = "CHANNEL"
26:1: filter_window in [worker.c]: 70000 is out of range; use 1 to 65536
30:1: filter_window in [worker.d]: with ack = "written" a message is done when it is written, and none is in flight; remove one of the two
36:1: filter_window in [worker.e]: with max_deliveries = 1 of "c" one death makes dead letters of all that is in flight; give it 2 or more, or use 1 here
41:1: filter_window in [worker.f]: 8 is more than "a" has slots; use 4 at most`},
	{"filters, more", `
[channel.jobs]
[worker.a]
builtin = "idle"
stdin = "jobs"
[worker.b]
command = ["x"]
stdin = ""
ack = "written"
[worker.c]
command = ["x"]
ack = "written"
delimiter = "nul"
filter_window = 3
stall_timeout = "1s"
[worker.d]
command = ["x"]
stdin = "jbos"
stdout = "jobs.dead"
[worker.e]
command = ["x"]
stdout = "jobs"
ack = "written"
[worker.f]
command = ["x"]
stdout = "jobs"
filter_window = 2
[worker.g]
command = ["x"]
stdin = ["jobs"]
[worker.h]
window = 3
`, `
5:1: stdin in [worker.a]: a built-in worker reads and writes no lines; use consume and produce, or a command
8:1: stdin in [worker.b]: it is empty; name a channel, or remove the key
12:1: ack in [worker.c]: it is for filters; add stdin = "CHANNEL" or stdout = "CHANNEL", or remove it
13:1: delimiter in [worker.c]: it is for filters; add stdin = "CHANNEL" or stdout = "CHANNEL", or remove it
14:1: filter_window in [worker.c]: it is for filters; add stdin = "CHANNEL" or stdout = "CHANNEL", or remove it
15:1: stall_timeout in [worker.c]: it is for filters; add stdin = "CHANNEL" or stdout = "CHANNEL", or remove it
18:1: stdin in [worker.d]: unknown channel "jbos"; did you mean "jobs"?
19:1: stdout in [worker.d]: "jobs.dead" holds the dead letters of "jobs" and is not for workers; name a channel of the configuration
23:1: ack in [worker.e]: without stdin there is nothing to ack; remove it
27:1: filter_window in [worker.f]: without stdin no message is in flight; remove it
30:1: stdin in [worker.g]: must be a string, not an array
31:9: [worker.h]: it has nothing to run; add command = ["program", "argument"] or builtin = "idle"
32:1: unknown key "window" in [worker.h]; did you mean "filter_window"?`},
	{"workers in total", "[worker.a]\nbuiltin = \"idle\"\ncount = 1000\n[worker.b]\nbuiltin = \"idle\"\ncount = 24\n[worker.c]\nbuiltin = \"idle\"\n[worker.d]\nbuiltin = \"idle\"",
		`7:9: count in [worker.c]: with these 1 all groups together have 1025 workers, and a region has 1024 at most; lower the counts`},
	{"metrics", "[metrics]\nlisten = \"0.0.0.0:9464\"", `2:1: listen in [metrics]: 0.0.0.0 is not a loopback address, and whoever reaches it could read the metrics; use "127.0.0.1:9464" or a Unix socket, and a proxy that asks for credentials before it`},
	{"metrics by name", "[metrics]\nlisten = \"localhost:9464\"", `2:1: listen in [metrics]: "localhost:9464" is no address and port; write "127.0.0.1:9464", "[::1]:9464" or "unix:/run/shmd/metrics.sock"`},
	{"metrics by path", "[metrics]\nlisten = \"/run/m.sock\"", `2:1: listen in [metrics]: "/run/m.sock" is no address; write "unix:/run/m.sock"`},
	{"metrics by relative path", "[metrics]\nlisten = \"unix:m.sock\"", `2:1: listen in [metrics]: "m.sock" is not absolute; begin it with /`},
	{"metrics nowhere", "[metrics]\nlisten = \"\"", `2:1: listen in [metrics]: it is empty; write "unix:/run/shmd/metrics.sock" or "127.0.0.1:9464", or remove the key for no endpoint`},
	{"metrics at a long path", "[metrics]\nlisten = \"unix:/" + strings.Repeat("x", 107) + "\"", `2:1: listen in [metrics]: the path of a socket has at most 107 bytes, and this one has 108; use a shorter one`},
	{"access", "[access]\nobserve = [\"@\"]\noperate = [\"a/b\", \"*\", \"@*\"]",
		`2:1: observe in [access]: "@": the name is empty; write a user as "alice", a group as "@ops", everybody as "*"
3:1: operate in [access]: "a/b": the name holds a character that no name has; write a user as "alice", a group as "@ops", everybody as "*"
3:1: operate in [access]: "@*": the name holds a character that no name has; write a user as "alice", a group as "@ops", everybody as "*"`},

	{"twice", "[worker.a]\nbuiltin = \"idle\"\ncount = 1\ncount = 0\n[worker.b]\nbuiltin = \"idle\"\n[worker.a]\nuser = \"\"\n[region]\nname = \"x\"\nname.y = 3\n",
		`4:1: key "count" is there already, in line 3; remove one
7:9: table [worker.a] is there already, in line 1; merge the two
8:1: user in [worker.a]: the name is empty; give a user's name or its uid, or remove the key for the daemon's own
11:1: "name" is a value since line 10; make it a [table] there, or remove this one`},
	{"braces are complete", "worker.a = { builtin = \"idle\" }\n[worker.a]\ncount = 2",
		`2:9: "a" is a table in braces, which nothing can be added to since line 1; make it a [table] there, or remove this one`},
	{"dotted and header", "[worker]\na.builtin = \"idle\"\n[worker.a]\ncount = 1",
		`3:2: table a already exists as defined by a dotted key`},

	{"syntax: no quotes", "[worker.a]\nrestart = always # c", `2:11: unexpected character U+0061 'a' at start of value; strings need quotes, write "always"`},
	{"syntax: unit without quotes", "[channel.a]\nslot_size = 4KiB", `2:14: strings need quotes, write "4KiB"`},
	{"syntax: True", "[channel.a]\nsparse = True", `2:10: unexpected character U+0054 'T' at start of value; write true`},
	{"syntax: off", "[channel.a]\nsparse = off", `2:10: unexpected character U+006F 'o' at start of value; write false`},
	{"syntax: typographic quotes", "[region]\nname = “x”", `2:8: '“' is no quote in TOML; write a straight one`},
	{"syntax: letters", "[channel.ü]", `1:10: invalid character at start of key: U+00FC 'ü'; a key with other letters than A-Z needs quotes`},
	{"syntax: number", "[worker.a]\ncount = 07", `2:9: integers cannot have leading zeroes`},
	{"syntax: YAML", "region:\n  name: x", `1:7: expected '=' after key`},
	{"syntax: end", "[worker.a]\ncommand = [\"x\",\n", `2:16: array is incomplete`},
	{"syntax: encoding", "[region]\nname = \"\xff\"", `2:9: invalid UTF-8 character in basic string`},
	{"syntax: what stood before is told", "[worker.a]\ncoutn = 3\nconsume = [\"later\"]\nx\n[channel.later]",
		`2:1: unknown key "coutn" in [worker.a]; did you mean "count"?
4:2: expected '=' after key`},
	{"byte order mark", "\xef\xbb\xbf[region]", `1:1: the file begins with a byte order mark; save it as UTF-8 without one`},
	{"UTF-16", "\xff\xfe[\x00", `1:1: the file is UTF-16; save it as UTF-8`},
	{"a program", "\x7fELF\x02", `1:1: the file is a program; give the path of a configuration`},
}

func TestBad(t *testing.T) {
	for _, tt := range bad {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Parse("shmd.toml", []byte(tt.text))
			if err == nil {
				t.Fatalf("accepted: %+v", c)
			}
			if c != nil {
				t.Error("a Config beside an error")
			}
			want := "shmd.toml:" + strings.ReplaceAll(strings.TrimPrefix(tt.want, "\n"), "\n", "\nshmd.toml:")
			if err.Error() != want {
				t.Errorf("got\n%v\nwant\n%s", err, want)
			}
		})
	}
}

func TestDetail(t *testing.T) {
	_, err := Parse("shmd.toml", []byte("[region]\r\n\tname\t= \"ü\"\r\n\r\n\r\n[worker.w]\r\nbuiltin = 'idle'\r\ncoutn = 4 # c\r\n"))
	want := `
shmd.toml:2:2: name in [region]: "ü" is not allowed; a name is 1 to 31 characters of a-z, 0-9, "-" and "_", and begins with a letter or a digit
1| [region]
2| 	name	= "ü"
 | 	~~~~

shmd.toml:7:1: unknown key "coutn" in [worker.w]; did you mean "count"?
5| [worker.w]
6| builtin = 'idle'
7| coutn = 4 # c
 | ~~~~~`
	if got := err.(Errors).Detail(); "\n"+got != want {
		t.Errorf("got\n%s", got)
	}
	_, err = Parse("shmd.toml", []byte("[region]\n# \x1b]0;x\x07"))
	want = "shmd.toml:2:3: control characters are not allowed in comments\n1| [region]\n2| # \ufffd]0;x\ufffd\n |   ~"
	if got := err.(Errors).Detail(); got != want {
		t.Errorf("got\n%q", got)
	}
	_, err = Parse("shmd.toml", []byte("[worker.w]\nbuiltin = 'idle'\n"+strings.Repeat("\n", 8)+"coutn = '"+strings.Repeat("x", 500)+"'\n[region]"))
	got := err.(Errors).Detail()
	want = `shmd.toml:11:1: unknown key "coutn" in [worker.w]; did you mean "count"?
11| coutn = '` + strings.Repeat("x", 150) + `…
  | ~~~~~
12| [region]`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	_, err = Parse("shmd.toml", []byte("worker.w = { builtin = 'idle', env = { "+strings.Repeat("x", 200)+" = 'ü', A = 1 } }"))
	got = err.(Errors).Detail()
	want = `shmd.toml:1:249: env.A in [worker.w]: must be a string, not the integer 1; write "1"
1| …` + strings.Repeat("x", 31) + ` = 'ü', A = 1 } }
 |  ` + strings.Repeat(" ", 31) + `        ~`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if e := (Error{File: "f", Msg: "m"}); e.Detail() != "f: m" {
		t.Errorf("got %q", e.Detail())
	}
}

func TestNearest(t *testing.T) {
	known := []string{"jobs", "results", "a", "words-in"}
	for s, want := range map[string]string{
		"jbos": "jobs", "job": "jobs", "jobs2": "jobs", "JOBS": "jobs", "result": "results", "reslut": "results",
		"words_in": "words-in", "b": "", "": "", "queue": "", "wodrs-ni": "words-in", strings.Repeat("j", 1000): "",
	} {
		if got := nearest(s, known); got != want {
			t.Errorf("%q: got %q, want %q", s, got, want)
		}
	}
	for _, d := range []struct {
		a, b string
		n    int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"ab", "ba", 1}, {"count", "coutn", 1}} {
		if got := distance(d.a, d.b); got != d.n {
			t.Errorf("%q %q: got %d, want %d", d.a, d.b, got, d.n)
		}
	}
}

// Every synonym leads to a key, and none hides one.
func TestSynonyms(t *testing.T) {
	keys := map[string]bool{}
	for _, name := range tableNames {
		keys[name] = true
		for _, k := range keyNames(tables[name].typ) {
			keys[k] = true
		}
	}
	for k := range synonyms {
		if !keys[k] {
			t.Errorf("%q is no key", k)
		}
	}
}
