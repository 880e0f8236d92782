package wordcount

import (
	"encoding/binary"
	"math"
	"slices"
)

// The result of one attempt at a job is one byte stream
//
//	uvarint  number of errors, each:  uvarint length, path; uvarint length, text
//	uvarint  number of words, each:   uvarint length, word; uvarint count
//
// cut into as many parts as the slots of the queue need, wherever the cut falls:
// a word may be longer than a slot. Each part is a message of its own:
//
//	 0  4  magic "wcR1"
//	 4  8  run id
//	12  8  attempt id: random, one for each delivery of the job
//	20  4  job id
//	24  4  deliveries of the job before this one
//	28  8  bytes of text read
//	36  4  part, from 0
//	40  4  parts of this attempt, at least 1
//	44  …  this part of the stream

const (
	resultMagic  = "wcR1"
	resultHeader = 44
)

// FileError is a file, or a directory, that was not counted.
type FileError struct {
	Path string // raw bytes
	Text string // why
}

// Attempt says which attempt at which job a result is of.
type Attempt struct {
	Run, ID    uint64
	Job        uint32
	Deliveries uint32 // how often the job was delivered before this attempt
	Bytes      uint64 // of text that the counts are of
}

// EncodeResult appends the stream of a result to buf.
func EncodeResult(buf []byte, errs []FileError, words *Counter) []byte {
	buf = binary.AppendUvarint(buf, uint64(len(errs)))
	for _, e := range errs {
		buf = appendString(buf, e.Path)
		buf = appendString(buf, e.Text)
	}
	buf = binary.AppendUvarint(buf, uint64(words.Distinct()))
	for w, n := range words.All() {
		buf = appendString(buf, w)
		buf = binary.AppendUvarint(buf, n)
	}
	return buf
}

// decodeResult reads a whole stream and adds its words to the counter. It
// checks the stream to its end before it adds the first word.
func decodeResult(stream []byte, words *Counter) ([]FileError, error) {
	d := decoder{rest: stream}
	var errs []FileError
	for n := d.uvarint("number of errors", uint64(len(stream))); n > 0 && d.err == nil; n-- {
		path, text := d.bytes("path", maxPath), d.bytes("error text", math.MaxUint64)
		errs = append(errs, FileError{string(path), string(text)})
	}
	list := d
	n := d.uvarint("number of words", uint64(len(stream)))
	for k := n; k > 0 && d.err == nil; k-- {
		word := d.bytes("word", math.MaxUint64)
		if slices.ContainsFunc(word, func(b byte) bool { return b < 'a' || b > 'z' }) || len(word) == 0 {
			d.fail("a word has other bytes than a to z")
		}
		if d.uvarint("count", math.MaxUint64) == 0 {
			d.fail("a word has no count")
		}
	}
	if len(d.rest) > 0 {
		d.fail("bytes after the last word")
	}
	if d.err != nil {
		return nil, d.err
	}
	list.uvarint("", math.MaxUint64)
	for ; n > 0; n-- {
		word := list.bytes("", math.MaxUint64)
		words.Add(word, list.uvarint("", math.MaxUint64))
	}
	return errs, nil
}

// Parts returns how many messages of at most slot bytes a stream needs. slot
// must be more than resultHeader.
func Parts(stream, slot int) int {
	payload := slot - resultHeader
	return max(1, (stream+payload-1)/payload)
}

// EncodePart writes part k of the stream into slot, which has the length that
// Parts was given, and returns the length of the message.
func EncodePart(slot []byte, a Attempt, stream []byte, k int) int {
	payload := len(slot) - resultHeader
	parts := Parts(len(stream), len(slot))
	h := append(slot[:0], resultMagic...)
	h = binary.LittleEndian.AppendUint64(h, a.Run)
	h = binary.LittleEndian.AppendUint64(h, a.ID)
	h = binary.LittleEndian.AppendUint32(h, a.Job)
	h = binary.LittleEndian.AppendUint32(h, a.Deliveries)
	h = binary.LittleEndian.AppendUint64(h, a.Bytes)
	h = binary.LittleEndian.AppendUint32(h, uint32(k))
	h = binary.LittleEndian.AppendUint32(h, uint32(parts))
	return len(append(h, stream[k*payload:min((k+1)*payload, len(stream))]...))
}

// part is one decoded message; payload aliases it.
type part struct {
	Attempt
	k, parts uint32
	payload  []byte
}

func decodePart(msg []byte) (part, error) {
	if len(msg) < resultHeader || string(msg[:4]) != resultMagic {
		return part{}, malformed("no result header")
	}
	u32, u64 := binary.LittleEndian.Uint32, binary.LittleEndian.Uint64
	p := part{
		Attempt: Attempt{Run: u64(msg[4:]), ID: u64(msg[12:]), Job: u32(msg[20:]), Deliveries: u32(msg[24:]), Bytes: u64(msg[28:])},
		k:       u32(msg[36:]),
		parts:   u32(msg[40:]),
		payload: msg[resultHeader:],
	}
	if p.k >= p.parts {
		return part{}, malformed("part number out of range")
	}
	return p, nil
}
