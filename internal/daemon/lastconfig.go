package daemon

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/shmd/shmd/internal/config"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/internal/unit"
	"github.com/shmd/shmd/pkg/protocol"
)

// A configuration that was broken while its daemon ran must not end the region with that daemon's death: a unit that fails loses its fd store, and so the memory. So the text that
// the region runs with lies in the fd store too, in a sealed memfd, and a daemon that gets it goes on with it where the file is refused, or does not fit to the memory that is left.

// configName is the name of that text in the fd store.
const configName = "c0000"

// configMemfd is how the kernel calls the memfd.
const configMemfd = "shmd-config"

// lastConfig is the configuration that a dead daemon of this unit ran with, if systemd hands it over; nil if there is none that holds for the file and the region. It takes nothing from
// the environment, which inherit does.
func lastConfig(path, region string) *config.Config {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil
	}
	for i, name := range strings.Split(os.Getenv("LISTEN_FDNAMES"), ":") {
		if name != configName {
			continue
		}
		fd := fmt.Sprintf("/proc/self/fd/%d", 3+i) // SD_LISTEN_FDS_START
		if to, err := os.Readlink(fd); err != nil || !strings.HasPrefix(to, "/memfd:"+configMemfd) {
			return nil
		}
		data, err := os.ReadFile(fd) // opens it anew: from its begin
		if err != nil {
			return nil
		}
		c, err := config.Parse(path, data)
		if err != nil || named(c, region) != nil { // of another version of shmd
			return nil
		}
		return c
	}
	return nil
}

// storeConfig puts the text of the configuration into the fd store, if another one is there.
func (d *Daemon) storeConfig() {
	text := d.conf.Text()
	if d.conf.Path == "" || text == nil || d.systemd.has(configName) && bytes.Equal(text, d.storedConfig) {
		return
	}
	f, err := sealed(text)
	if err != nil {
		d.log.Warn("the configuration cannot be put into the fd store: if the file is broken when the daemon dies, no next one starts", "error", err)
		return
	}
	defer f.Close()
	d.systemd.remove(configName)
	d.systemd.store(configName, f)
	d.storedConfig = text
}

// sealed returns a memfd with a text that nobody can change.
func sealed(text []byte) (*os.File, error) {
	f, err := sys.MemfdCreate(configMemfd)
	if err != nil {
		return nil, err
	}
	if _, err = f.Write(text); err == nil {
		err = sys.AddSeals(f, sys.SealWrite|sys.SealGrow|sys.SealShrink|sys.SealSeal)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// chooseConfig goes back to the last configuration where the file's does not fit to the memory of the region and the last one does: a reload would refuse it, too.
func (d *Daemon) chooseConfig(e *estate) {
	s := e.segments["roster"]
	if d.last == nil || d.refused != nil || s == nil {
		return
	}
	roster, err := protocol.OpenRoster(s.Bytes())
	if err != nil {
		return
	}
	file := d.conf
	why := d.sameShape(roster, e.segments)
	if steps := config.Never(d.last, file); why == nil && len(steps) > 0 {
		why = fmt.Errorf("%s %s", steps[0].Table, steps[0].Text)
	}
	if why == nil {
		return
	}
	if d.conf = d.last; d.sameShape(roster, e.segments) != nil {
		d.conf = file
		return
	}
	d.refused = fmt.Errorf("%s does not fit to the region that is there: %w", file.Path, why)
}

// tellRefused tells that the file does not hold, and what to do.
func (d *Daemon) tellRefused() {
	if d.refused == nil {
		return
	}
	shmctl := unit.Shmctl(d.conf.Region.Name)
	d.log.Error("the configuration is refused: the region goes on with the one that it ran with", "reason", d.refused, "config", d.conf.Path,
		"next", "mend the file (shmd check -c FILE) and apply it ("+shmctl+"reload); what a reload cannot change takes "+shmctl+"stop and another start")
	d.event(eventReload, d.conf.Region.Name, "refused", "config", d.conf.Path)
}
