package hclogsink

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/go-hclog"
)

// What BenchmarkLogRecord of pkg/shm stands beside: the same record through hclog to a file, and as a datagram in the journal's native form.
func BenchmarkLogRecord(b *testing.B) {
	b.Run("hclog-file", func(b *testing.B) {
		f, err := os.Create(filepath.Join(b.TempDir(), "log"))
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		log := hclog.New(&hclog.LoggerOptions{Output: f, JSONFormat: true, IncludeLocation: true})
		for b.Loop() {
			log.Info("request served, and the answer was sent back", "method", "GET", "path", "/index.html", "status", 200, "bytes", 18231)
		}
	})
	b.Run("journal-socket", func(b *testing.B) {
		path := filepath.Join(b.TempDir(), "socket")
		in, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		if err != nil {
			b.Fatal(err)
		}
		defer in.Close()
		go func() { // journald does more with it
			for buf := make([]byte, 4096); ; {
				if _, err := in.Read(buf); err != nil {
					return
				}
			}
		}()
		out, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
		if err != nil {
			b.Fatal(err)
		}
		defer out.Close()
		datagram := []byte("PRIORITY=6\nCODE_FILE=server/handler.go\nCODE_LINE=231\nMETHOD=GET\nPATH=/index.html\nSTATUS=200\nBYTES=18231\nMESSAGE=request served, and the answer was sent back\n")
		for b.Loop() {
			if _, err := out.Write(datagram); err != nil {
				b.Fatal(err)
			}
		}
	})
}
