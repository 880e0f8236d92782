// Mapfile is where it began: a file of ten 32-bit integers, mapped into memory, so that writing an
// integer into the file is a store and no system call.
//
//	mapfile FILE
//
// It makes FILE if it is missing, stores two of the integers, unmaps the file, and prints what an
// ordinary read finds in it. A file that is not exactly 40 bytes long is refused.
//
// The way from here to shmd is told in docs/from-mmap-to-shmd.md; the next step is examples/parentchild.
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/shmd/shmd/pkg/region"
)

const (
	intSize = 4               // bytes of a 32-bit integer
	count   = 10              // integers in the file
	size    = count * intSize // 40: not one byte more or less, see TestWhyNotOneByteMoreOrLess
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: mapfile FILE")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "mapfile:", err)
		os.Exit(1)
	}
}

func run(path string, out io.Writer) error {
	// Open and map: from here on the file's bytes are memory of this process. The kernel makes a file's
	// space when it is written to; OpenFileRW has it made now, since a store has no way to say "disk full".
	f, err := region.OpenFileRW(path, size)
	if err != nil {
		return err
	}
	err = f.View(func(b []byte) error {
		// b is the file. These two lines change it, for every process that has it open, at once.
		put(b, 0, 0x12345678)
		put(b, count-1, 0xdeadc0de)
		return nil
	})
	// Unmap: b is gone, what was stored is in the file. (On the disk it is some seconds later, or after
	// f.Sync: a crash of the machine in between loses it, a crash of this program does not.)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}

	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	dump(out, b)
	return nil
}

// put stores the i-th integer, lowest byte first (little-endian), on every processor: a file outlives
// the machine that wrote it.
func put(b []byte, i int, v uint32) {
	binary.LittleEndian.PutUint32(b[i*intSize:], v)
}

// dump prints the bytes as they lie in the file, and the integers that they make.
func dump(out io.Writer, b []byte) {
	fmt.Fprintln(out, "offset  bytes        little-endian integer")
	for i := 0; i+intSize <= len(b); i += intSize {
		fmt.Fprintf(out, "%6d  % x  0x%08x\n", i, b[i:i+intSize], binary.LittleEndian.Uint32(b[i:]))
	}
	fmt.Fprint(out, `
The lowest byte of an integer comes first: 0x12345678 is 78 56 34 12, and 0xdeadc0de is de c0 ad de.
Read the bytes of a row from right to left to get the number.
`)
}
