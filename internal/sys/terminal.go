package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// TerminalSize returns the size of the terminal that f is, in cells.
func TerminalSize(f *os.File) (columns, lines int, err error) {
	ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, 0, err
	}
	return int(ws.Col), int(ws.Row), nil
}
