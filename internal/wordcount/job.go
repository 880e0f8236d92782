package wordcount

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A job message (all fixed integers little-endian):
//
//	 0  4  magic "wcJ1"
//	 4  8  run id: which run of the program the job is of
//	12  4  job id: from 0, dense
//	16  …  ranges to the end of the message, each
//	         uvarint  bytes shared with the front of the path before (0 for the first)
//	         uvarint  length of the rest of the path, and these bytes
//	         uvarint  offset
//	         uvarint  length
//
// Paths are raw bytes: newlines and names that are not UTF-8 are like any other.

const (
	// JobBytes is how much text a job holds at most.
	JobBytes = 1 << 20

	jobMagic  = "wcJ1"
	jobHeader = 16
	maxPath   = 1 << 16 // bytes; Linux opens no path of more than 4096
)

// ErrMessage reports a job or result that is not what this package writes.
var ErrMessage = errors.New("not a message of wordcount")

func malformed(what string) error { return fmt.Errorf("%w: %s", ErrMessage, what) }

// Range is a piece of a file. Path is absolute.
type Range struct {
	Path        string
	Offset, Len int64 // bytes, >= 0; their sum does not overflow
}

// Job is a list of ranges that one worker counts.
type Job struct {
	Run    uint64
	ID     uint32
	Ranges []Range
}

// Encode appends the message of the job to buf.
func (j *Job) Encode(buf []byte) []byte {
	buf = appendJobHeader(buf, j.Run, j.ID)
	prev := ""
	for _, r := range j.Ranges {
		buf = appendRange(buf, prev, r)
		prev = r.Path
	}
	return buf
}

func appendJobHeader(buf []byte, run uint64, id uint32) []byte {
	buf = append(buf, jobMagic...)
	buf = binary.LittleEndian.AppendUint64(buf, run)
	return binary.LittleEndian.AppendUint32(buf, id)
}

func appendRange(buf []byte, prev string, r Range) []byte {
	shared := 0
	for shared < min(len(prev), len(r.Path)) && prev[shared] == r.Path[shared] {
		shared++
	}
	buf = binary.AppendUvarint(buf, uint64(shared))
	buf = appendString(buf, r.Path[shared:])
	buf = binary.AppendUvarint(buf, uint64(r.Offset))
	return binary.AppendUvarint(buf, uint64(r.Len))
}

// DecodeJob reads a job message; the job holds no reference to it. The error is
// an ErrMessage that says what is wrong.
func DecodeJob(msg []byte) (Job, error) {
	if len(msg) < jobHeader || string(msg[:4]) != jobMagic {
		return Job{}, malformed("no job header")
	}
	j := Job{Run: binary.LittleEndian.Uint64(msg[4:]), ID: binary.LittleEndian.Uint32(msg[12:])}
	d := decoder{rest: msg[jobHeader:]}
	prev := ""
	for len(d.rest) > 0 && d.err == nil {
		shared := d.uvarint("shared bytes", uint64(len(prev)))
		rest := d.bytes("path", maxPath)
		offset := d.uvarint("offset", 1<<62)
		length := d.uvarint("length", 1<<62)
		if len(rest) > maxPath-int(shared) {
			d.fail("path is too long")
		}
		if d.err != nil {
			break
		}
		prev = prev[:shared] + string(rest)
		j.Ranges = append(j.Ranges, Range{prev, int64(offset), int64(length)})
	}
	if d.err != nil {
		return Job{}, d.err
	}
	return j, nil
}

func appendString[S string | []byte](buf []byte, s S) []byte {
	return append(binary.AppendUvarint(buf, uint64(len(s))), s...)
}

// decoder reads a byte stream field by field; its first error stays, and all
// fields after it are zero.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = malformed(what)
	}
	d.rest = nil
}

// uvarint reads a number of at most limit.
func (d *decoder) uvarint(field string, limit uint64) uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || v > limit {
		d.fail(field + " is cut off or out of range")
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// bytes reads a length of at most limit and as many bytes, which alias the stream.
func (d *decoder) bytes(field string, limit uint64) []byte {
	n := d.uvarint("length of "+field, min(limit, uint64(len(d.rest))))
	if n > uint64(len(d.rest)) {
		d.fail(field + " is cut off")
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}
