// Package systest makes the kernel look older than it is, so that the fallbacks of
// package sys are tested on a new one. For tests only.
package systest
