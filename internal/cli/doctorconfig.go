package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/shmd/shmd/internal/config"
	"github.com/shmd/shmd/pkg/protocol"
)

// checkConfiguration looks whether the next daemon, or a reload, could have the file of the daemon that runs. Of a file that this user cannot read, or that is none, there is nothing to say.
func checkConfiguration(s *session) []finding {
	path := s.Roster.Daemon().Config
	if st, err := os.Stat(path); !filepath.IsAbs(path) || err == nil && !st.Mode().IsRegular() || errors.Is(err, os.ErrPermission) {
		return nil
	}
	f := fine("configuration", "%s fits to the region", path)
	c, err := config.Load(path)
	var problems config.Errors
	switch {
	case errors.Is(err, os.ErrPermission):
		return nil
	case errors.As(err, &problems):
		f.Text = fmt.Sprintf("%s is refused: %s", path, problems[0].Error())
	case err != nil:
		f.Text = err.Error()
	case c.Region.Name != s.name():
		f.Text = fmt.Sprintf("%s is that of region %q", path, c.Region.Name)
	default:
		other := s.otherChannels(c)
		if len(other) == 0 {
			return []finding{f}
		}
		f.Text = fmt.Sprintf("%s has other channels than the region: %s", path, strings.Join(other, "; "))
		return []finding{f.warn("change it back, or begin the region anew, empty: shmctl -r %s stop, and start the daemon; one that only dies is followed, under systemd, by one that goes on with the configuration before", s.name())}
	}
	return []finding{f.warn("mend it (shmd check -c %s), then shmctl -r %s reload; until then the region has what it has, and without systemd no next daemon starts", path, s.name())}
}

// otherChannels are the channels that a configuration has with another kind or size than the memory: no daemon can take them over.
func (s *session) otherChannels(c *config.Config) (other []string) {
	for _, want := range c.Channels {
		seg := s.segments[want.Name]
		if seg == nil {
			continue
		}
		have, err := protocol.OpenChannel(seg.Bytes())
		switch {
		case err != nil:
		case have.Header().Kind.String() != want.Kind:
			other = append(other, fmt.Sprintf("%s is a %v, and a %s in the file", want.Name, have.Header().Kind, want.Kind))
		case have.Slots() != want.Slots || have.SlotSize() != int(want.SlotSize):
			other = append(other, fmt.Sprintf("%s has slots = %d and slot_size = %d, and %d and %d in the file", want.Name, have.Slots(), have.SlotSize(), want.Slots, want.SlotSize))
		}
	}
	return other
}
