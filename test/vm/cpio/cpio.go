// Package cpio writes initramfs images: trees of files in the cpio format "newc", which the kernel unpacks as its first root.
package cpio

import (
	"bytes"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// Image is such a tree. The zero value is an empty one. It is for one goroutine.
type Image struct {
	entries map[string]entry // by path without the leading slash
}

type entry struct {
	mode uint32 // of stat(2)
	data []byte // of a file; of a link where it goes
	dev  [2]uint32
}

// The formats of st_mode.
const (
	directory = 0o040000
	regular   = 0o100000
	symlink   = 0o120000
	charDev   = 0o020000
)

func (m *Image) put(path string, e entry) {
	if m.entries == nil {
		m.entries = map[string]entry{}
	}
	path = strings.Trim(path, "/")
	if dir := filepath.Dir(path); dir != "." {
		if _, ok := m.entries[dir]; !ok {
			m.Dir(dir)
		}
	}
	m.entries[path] = e
}

// File puts a file into the image, with its permissions, in place of what was there; and the directories that it is in.
func (m *Image) File(path string, perm uint32, data []byte) {
	m.put(path, entry{mode: regular | perm, data: data})
}

// Dir puts a directory there, with permissions 0755.
func (m *Image) Dir(path string) { m.put(path, entry{mode: directory | 0o755}) }

// Link puts a symbolic link there.
func (m *Image) Link(path, to string) { m.put(path, entry{mode: symlink | 0o777, data: []byte(to)}) }

// Device puts a character device there, for root.
func (m *Image) Device(path string, major, minor uint32) {
	m.put(path, entry{mode: charDev | 0o600, dev: [2]uint32{major, minor}})
}

// Bytes gives the image.
func (m *Image) Bytes() []byte {
	var b bytes.Buffer
	pad := func() {
		for b.Len()%4 != 0 {
			b.WriteByte(0)
		}
	}
	member := func(i int, name string, e entry) {
		fmt.Fprintf(&b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", i, e.mode, 0, 0, 1, 0, len(e.data), 0, 0, e.dev[0], e.dev[1], len(name)+1, 0)
		b.WriteString(name + "\x00")
		pad()
		b.Write(e.data)
		pad()
	}
	for i, name := range slices.Sorted(maps.Keys(m.entries)) { // what a file is in comes before it
		member(i+1, name, m.entries[name])
	}
	member(0, "TRAILER!!!", entry{})
	return b.Bytes()
}
