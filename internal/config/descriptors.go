package config

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/shmd/shmd/internal/sys"
)

// MaxStoredNames is how many descriptors systemd can hand over: their names, six bytes each, come in one environment variable, which has 128 KiB.
const MaxStoredNames = 21000

// Stored is how many descriptors of this region lie in systemd's fd store when all attachments are in use: each segment once, 3 for a worker, 1 for an
// outsider, and the configuration.
func (c *Config) Stored() int {
	n := 1 + c.segments() + c.Region.MaxAttachments
	for i := range c.Groups {
		n += 3 * c.Groups[i].Count
	}
	return n
}

// Descriptors is how many descriptors the daemon itself needs then: each segment twice, 3 for a worker and one more while it starts, 2 for an outsider.
func (c *Config) Descriptors() int {
	const own = 64 // sockets, the log, what it opens for a moment
	n := own + 2*c.segments() + 2*c.Region.MaxAttachments
	for i := range c.Groups {
		n += 4 * c.Groups[i].Count
	}
	return n
}

func (c *Config) segments() int {
	n := 3 + len(c.Groups) + len(c.Channels)
	for i := range c.Channels {
		if c.Channels[i].Kind == KindQueue && c.Channels[i].MaxDeliveries > 0 {
			n++
		}
	}
	return n
}

// descriptors compares what the region needs with what this user's processes may have, and with the unit's fd store where there is one.
func (v *validator) descriptors(s system) {
	at := path{"region", "max_attachments"}
	if most, err := s.nofile(); err == nil && uint64(v.c.Descriptors()) > most {
		v.fail(at, tooFew, v.c.Descriptors(), most)
	}
	need := v.c.Stored()
	switch unit, most, ok := s.store(v.c.Region.Name); {
	case !ok:
	case need > MaxStoredNames:
		v.fail(at, "with all workers and outsiders %d descriptors would lie in systemd's fd store, which can hand over %d; lower max_attachments", need, MaxStoredNames)
	case need > most:
		v.fail(at, "with all workers and outsiders %d descriptors lie in the fd store of %s, which has room for %d; raise FileDescriptorStoreMax= (systemctl edit %s), or lower max_attachments",
			need, unit, most, unit)
	}
}

// OutOfFiles adds to an error that this process, the daemon, has too many open files how many the region needs and what to do; other errors stay as they are.
func (c *Config) OutOfFiles(err error) error {
	if !errors.Is(err, syscall.EMFILE) {
		return err
	}
	most, limitErr := nofile()
	if limitErr != nil {
		return err
	}
	return fmt.Errorf("%w: "+tooFew, err, c.Descriptors(), most)
}

// tooFew says how many open files are needed, and how many there may be.
const tooFew = "with all workers and outsiders the daemon needs %d open files, and may have %d; raise the limit (LimitNOFILE= in the unit, ulimit -n in a shell), or lower max_attachments"

func nofile() (uint64, error) {
	_, most, err := sys.Getrlimit(sys.LimitNofile)
	return most, err
}

// unitStore asks systemd for the room in the fd store of the region's unit; ok is false if there is no such unit or nobody to ask.
func unitStore(region string) (unit string, most int, ok bool) {
	unit, settings := askUnit(region, "FileDescriptorStoreMax")
	most, err := strconv.Atoi(settings["FileDescriptorStoreMax"])
	return unit, most, err == nil
}

// unitDelegates asks systemd whether the region's unit may have cgroups; unit is empty if there is none, or nobody to ask.
func unitDelegates(region string) (unit string, ok bool) {
	unit, settings := askUnit(region, "Delegate", "ProtectControlGroups")
	if settings == nil {
		return "", false
	}
	return unit, settings["Delegate"] == "yes" && settings["ProtectControlGroups"] == "no"
}

// unitOf is the shipped unit of a region.
func unitOf(region string) string {
	if region == defaultRegion().Name {
		return "shmd.service"
	}
	return "shmd@" + region + ".service"
}

// askUnit asks systemd for settings of the region's unit; nil if there is no such unit, or nobody to ask.
func askUnit(region string, settings ...string) (unit string, values map[string]string) {
	unit = unitOf(region)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "systemctl", "show", "-p", strings.Join(append(settings, "LoadState"), ","), unit).Output()
	if err != nil || !strings.Contains(string(out), "LoadState=loaded") {
		return unit, nil
	}
	values = map[string]string{}
	for line := range strings.Lines(string(out)) {
		if k, v, found := strings.Cut(strings.TrimSpace(line), "="); found {
			values[k] = v
		}
	}
	return unit, values
}
