// Package wordcount counts the words of a tree of files in several processes
// that share nothing but two queues and the page cache.
//
//	feeder ──jobs──▶ workers (map the files, count) ──results──▶ merger
//
// A word is a maximal run of ASCII letters within one file, lowercased.
//
// # Exactly right although workers are killed
//
// The queues deliver at least once: a job whose worker was killed comes again.
// Three rules turn that into an exact count:
//
//   - A worker acknowledges a job only after the last part of its result is
//     committed, so a job without a whole result is always delivered again.
//   - Each delivery counts under an attempt id of its own, drawn at random, so
//     the parts of two attempts at one job are never mixed.
//   - The merger takes, of each job, the first attempt of which it has every
//     part, and ignores every other.
//
// The text itself is never in a message: a job names ranges of files, and the
// workers map the files read-only, so that all processes together hold one
// copy of it.
package wordcount
