package sys

import (
	"io/fs"
	"testing"
)

func TestMemoryLimitHere(t *testing.T) {
	limit, source, err := MemoryLimit()
	if err != nil || limit <= 0 || source == "" {
		t.Errorf("MemoryLimit = %d, %q, %v", limit, source, err)
	}
	t.Log(limit, source)
}

// The files as kernels, containers and service managers show them.
func TestMemoryLimit(t *testing.T) {
	const (
		v2mount = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
		v1mount = "33 24 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n" +
			"34 24 0:30 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n"
		meminfo = "MemTotal: 8000 kB\nMemAvailable:    4000 kB\n"
	)
	for _, c := range []struct {
		name   string
		files  map[string]string
		limit  int64
		source string
	}{
		{"no cgroups", nil, 4000 << 10, "/proc/meminfo MemAvailable"},
		{"v2, none set", map[string]string{
			"/proc/self/cgroup":                      "0::/system.slice/shmd.service\n",
			"/proc/self/mountinfo":                   v2mount,
			"/sys/fs/cgroup/system.slice/memory.max": "max\n",
		}, 4000 << 10, "/proc/meminfo MemAvailable"},
		{"v2, own", map[string]string{
			"/proc/self/cgroup":    "0::/system.slice/shmd.service\n",
			"/proc/self/mountinfo": v2mount,
			"/sys/fs/cgroup/system.slice/shmd.service/memory.max":     "1000000\n",
			"/sys/fs/cgroup/system.slice/shmd.service/memory.current": "300000\n",
			"/sys/fs/cgroup/system.slice/shmd.service/memory.stat":    "anon 5\ninactive_file 100000\nactive_file 1\n",
		}, 800000, "/sys/fs/cgroup/system.slice/shmd.service/memory.max"},
		{"v2, parent tighter", map[string]string{
			"/proc/self/cgroup":    "0::/system.slice/shmd.service\n",
			"/proc/self/mountinfo": v2mount,
			"/sys/fs/cgroup/system.slice/shmd.service/memory.max":     "1000000\n",
			"/sys/fs/cgroup/system.slice/shmd.service/memory.current": "0\n",
			"/sys/fs/cgroup/system.slice/memory.max":                  "2000000\n",
			"/sys/fs/cgroup/system.slice/memory.current":              "1900000\n",
		}, 100000, "/sys/fs/cgroup/system.slice/memory.max"},
		{"v2, over the limit", map[string]string{
			"/proc/self/cgroup":                "0::/a\n",
			"/proc/self/mountinfo":             v2mount,
			"/sys/fs/cgroup/a/memory.max":      "1000\n",
			"/sys/fs/cgroup/a/memory.current":  "1004\n",
			"/sys/fs/cgroup/memory.max":        "500000\n",
			"/sys/fs/cgroup/memory.current":    "1\n",
			"/sys/fs/cgroup/../memory.current": "1\n",
		}, 0, "/sys/fs/cgroup/a/memory.max"},
		{"v1, tighter than v2", map[string]string{
			"/proc/self/cgroup":    "9:name=systemd:/\n4:memory:/docker/abc\n1:cpu,cpuacct:/\n0::/\n",
			"/proc/self/mountinfo": v1mount + "40 24 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
			"/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": "9223372036854771712\n",
			"/sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes": "5\n",
			"/sys/fs/cgroup/memory/docker/memory.limit_in_bytes":     "700000\n",
			"/sys/fs/cgroup/memory/docker/memory.usage_in_bytes":     "400000\n",
			"/sys/fs/cgroup/memory/docker/memory.stat":               "inactive_file 9\ntotal_inactive_file 50000\n",
		}, 350000, "/sys/fs/cgroup/memory/docker/memory.limit_in_bytes"},
		{"container that sees its own part only", map[string]string{
			"/proc/self/cgroup":             "0::/docker/abc/job\n",
			"/proc/self/mountinfo":          "30 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
			"/sys/fs/cgroup/job/memory.max": "max\n",
			"/sys/fs/cgroup/memory.max":     "300000\n",
			"/sys/fs/cgroup/memory.current": "100000\n",
		}, 200000, "/sys/fs/cgroup/memory.max"},
		{"cgroup outside of the namespace", map[string]string{
			"/proc/self/cgroup":              "0::/../other\n",
			"/proc/self/mountinfo":           "30 23 0:26 / /mnt/with\\040space rw - cgroup2 cgroup rw\n",
			"/mnt/with space/memory.max":     "300000\n",
			"/mnt/with space/memory.current": "100000\n",
		}, 200000, "/mnt/with space/memory.max"},
		{"nonsense", map[string]string{
			"/proc/self/cgroup":    "\n0\n0::\nx:memory\n3:memory:relative\n",
			"/proc/self/mountinfo": "1 2 3\n - cgroup2\n1 2 3 / /m o - cgroup2 x\n" + v2mount,
		}, 4000 << 10, "/proc/meminfo MemAvailable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			limit, source, err := memoryLimit(func(path string) ([]byte, error) {
				if path == "/proc/meminfo" {
					return []byte(meminfo), nil
				}
				if text, ok := c.files[path]; ok {
					return []byte(text), nil
				}
				return nil, fs.ErrNotExist
			})
			if limit != c.limit || source != c.source || err != nil {
				t.Errorf("%d, %q, %v, want %d, %q", limit, source, err, c.limit, c.source)
			}
		})
	}
	if _, _, err := memoryLimit(func(string) ([]byte, error) { return nil, fs.ErrNotExist }); err == nil {
		t.Error("no /proc: no error")
	}
	if _, _, err := memoryLimit(func(string) ([]byte, error) { return []byte("MemTotal: 1 kB\n"), nil }); err == nil {
		t.Error("no MemAvailable: no error")
	}
}
