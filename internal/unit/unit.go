// Package unit has what hints say of a region from outside it: its systemd unit, and the commands that act on it.
package unit

// defaultRegion is the region that is meant where none is named.
const defaultRegion = "default"

// Name returns the unit of a region, as deploy/systemd has it.
func Name(region string) string {
	if region == defaultRegion {
		return "shmd"
	}
	return "shmd@" + region
}

// Start returns how the daemon of a region is started, under systemd or without.
func Start(region string) string { return "systemctl start " + Name(region) + ", or shmd -c FILE" }

// Log returns how the daemon's log is read.
func Log(region string) string { return "journalctl -u " + Name(region) }

// Shmctl begins a command for a region.
func Shmctl(region string) string {
	if region == defaultRegion {
		return "shmctl "
	}
	return "shmctl -r " + region + " "
}
