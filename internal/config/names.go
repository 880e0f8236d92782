package config

import (
	"slices"
	"strings"
	"unicode"
)

// nameRule is what errors say of names.
const nameRule = `a name is 1 to 31 characters of a-z, 0-9, "-" and "_", and begins with a letter or a digit`

// validName tells whether s may name a region, a channel or a group.
func validName(s string) bool {
	if s == "" || len(s) > MaxNameLen || s[0] == '-' || s[0] == '_' {
		return false
	}
	for i := range len(s) {
		if !nameByte(s[i]) {
			return false
		}
	}
	return true
}

func nameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// guessName returns the valid name that is nearest to s, or "": also if letters would have to go, for what is left is hardly what was meant.
func guessName(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool {
		return r >= 0x80 && (unicode.IsLetter(r) || unicode.IsNumber(r) || unicode.IsMark(r))
	}) {
		return ""
	}
	s = strings.Map(func(r rune) rune {
		switch r = unicode.ToLower(r); {
		case r < 0x80 && nameByte(byte(r)):
			return r
		case strings.ContainsRune(" ./:", r):
			return '-'
		}
		return -1
	}, s)
	s = strings.TrimLeft(s, "-_")
	if s = s[:min(len(s), MaxNameLen)]; validName(s) {
		return s
	}
	return ""
}

// reservedChannels are names of other segments: SHMD_FDS lists them beside the channels.
var reservedChannels = []string{"roster", "command", "log", "group"}

// deadSuffix ends the name of a dead-letter channel.
const deadSuffix = ".dead"

// synonyms are words that people try for a key, by what it is called here.
var synonyms = map[string][]string{
	"worker":         {"group", "process", "program", "service", "task"},
	"channel":        {"queue", "topic", "pipe", "stream", "latest", "value"},
	"access":         {"acl", "permission", "auth", "user"},
	"metrics":        {"prometheus", "monitoring", "telemetry", "stats"},
	"listen":         {"address", "addr", "bind", "endpoint"},
	"region":         {"global", "daemon", "shmd", "general"},
	"count":          {"replicas", "instances", "processes", "numprocs", "number", "workers", "scale", "n"},
	"command":        {"exec", "run", "program", "argv", "execstart", "entrypoint"},
	"slot_size":      {"size", "message_size", "max_size", "value_size"},
	"slots":          {"capacity", "length", "depth", "slot_count", "versions", "history"},
	"dir":            {"cwd", "directory", "workdir", "working_directory", "chdir"},
	"consume":        {"input", "inputs", "subscribe", "reads"},
	"produce":        {"output", "outputs", "publish", "writes"},
	"stop_timeout":   {"timeout", "kill_timeout", "grace_period"},
	"max_deliveries": {"retries", "max_retries", "attempts", "max_attempts"},
	"max_leases":     {"prefetch", "prefetch_count", "max_in_flight", "max_inflight", "max_unacked"},
	"kind":           {"type"},
	"overflow":       {"policy", "full", "on_full", "when_full", "backpressure"},
	"publishers":     {"producers", "writers", "max_publishers"},
	"subscribers":    {"consumers", "readers", "cursors", "max_subscribers"},
	"evict_after":    {"slow_timeout", "evict", "kick_after", "lag_timeout"},
	"restart":        {"restart_policy", "autorestart"},
	"env":            {"environment"},
	"stdin":          {"in", "standard_input"},
	"stdout":         {"out", "standard_output"},
	"filter_window":  {"window", "in_flight", "inflight", "prefetch", "batch"},
	"ack":            {"acknowledge", "acks"},
	"delimiter":      {"separator", "terminator"},
	"stall_timeout":  {"stall", "stalled", "answer_timeout"},
	"wait":           {"wait_strategy", "waiting", "idle_strategy", "spin", "polling"},
	"user":           {"uid", "run_as"},
}

// nearestKey returns which of the known keys was most likely meant by s, or "".
func nearestKey(s string, known []string) string {
	s = plain(s)
	if k := nearest(s, known); k != "" {
		return k
	}
	for _, k := range known {
		if slices.Contains(synonyms[k], s) || slices.Contains(synonyms[k], strings.TrimSuffix(s, "s")) {
			return k
		}
	}
	for _, k := range known {
		if len(s) >= 3 && strings.HasPrefix(plain(k), s) {
			return k
		}
	}
	return ""
}

// plain makes one of two spellings of a word.
func plain(s string) string { return strings.ReplaceAll(strings.ToLower(s), "-", "_") }

// nearest returns which of known s was meant to be, or "": one that differs in a third of the
// letters at most, case aside.
func nearest(s string, known []string) string {
	s = plain(s)
	if s == "" || len(s) > 4*MaxNameLen {
		return ""
	}
	best, bestAt := "", max(len(s)/3, 1)+1
	for _, k := range known {
		if d := distance(s, plain(k)); d < bestAt && d < len(k) {
			best, bestAt = k, d
		}
	}
	return best
}

// distance counts the letters to insert, delete, replace or swap with a neighbour to make b of a
// (optimal string alignment).
func distance(a, b string) int {
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			same := 1
			if a[i-1] == b[j-1] {
				same = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+same)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}
