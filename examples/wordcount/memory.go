package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/shmd/shmd/internal/wordcount"
)

// memory is what the text costs: the mappings of its files in all processes of the run. A page that n
// processes have mapped counts n times in Rss, and once in the sum of Pss, which gives each a share.
//
// A worker that was killed has given back what it had mapped, so that the sum may be less than the text.
type memory struct {
	Processes int   `json:"processes"`
	Text      int64 `json:"text_bytes"`       // sizes of the files
	Pages     int64 `json:"text_pages_bytes"` // rounded up to whole pages: what one copy takes
	Rss       int64 `json:"rss_bytes"`
	Pss       int64 `json:"pss_bytes"`
}

// measure reads the smaps of the workers, the daemon and this process.
func measure(p *wordcount.Plan, c *crew) (*memory, error) {
	m := &memory{Text: p.Bytes, Pages: p.Pages}
	workers, err := c.workers()
	if err != nil {
		return nil, err
	}
	pids := map[int]bool{os.Getpid(): true}
	for _, w := range workers {
		if w.Pid > 0 && !c.killed[w.Pid] {
			pids[w.Pid] = true
			if daemon, err := parent(w.Pid); err == nil && daemon > 1 {
				pids[daemon] = true
			}
		}
	}
	for pid := range pids {
		rss, pss, err := smaps(pid, p.Root)
		switch {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH): // it has ended
			continue
		case err != nil:
			return nil, fmt.Errorf("measure the memory of process %d: %w; run this as the daemon's user", pid, err)
		}
		m.Processes++
		m.Rss += rss
		m.Pss += pss
	}
	return m, nil
}

func parent(pid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), "\nPPid:\t")
	line, _, _ := strings.Cut(rest, "\n")
	return strconv.Atoi(line)
}

func smaps(pid int, root string) (rss, pss int64, err error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	return sumSmaps(f, root)
}

// sumSmaps adds up, in bytes, the mappings of files that are root or lie under it.
func sumSmaps(r io.Reader, root string) (rss, pss int64, err error) {
	root = strings.ReplaceAll(strings.TrimSuffix(root, "/"), "\n", `\012`) // as the kernel writes it
	under := false
	s := bufio.NewScanner(r)
	for s.Scan() {
		key, rest, _ := strings.Cut(s.Text(), " ")
		if !strings.HasSuffix(key, ":") { // a mapping: range, then mode, offset, device, inode, path
			for range 4 {
				_, rest, _ = strings.Cut(strings.TrimLeft(rest, " "), " ")
			}
			path := strings.TrimLeft(rest, " ")
			under = path == root && path != "" || strings.HasPrefix(path, root+"/")
			continue
		}
		if !under || key != "Rss:" && key != "Pss:" {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("smaps: line %q: %w", s.Text(), err)
		}
		if key == "Rss:" {
			rss += kib << 10
		} else {
			pss += kib << 10
		}
	}
	return rss, pss, s.Err()
}
