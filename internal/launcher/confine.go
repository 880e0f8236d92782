package launcher

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/shmd/shmd/internal/cgroup"
	"github.com/shmd/shmd/internal/launcher/spec"
	"github.com/shmd/shmd/internal/sys"
)

// confine gives the process what its group's configuration says of the machine's resources, but for what the launcher itself could not live with.
func confine(s spec.Spec) error {
	if s.Cgroup != "" { // first: the rest counts there
		if err := cgroup.Join(s.Cgroup); err != nil {
			return err
		}
	}
	if err := limit(s, false); err != nil {
		return err
	}
	if s.Nice != 0 {
		if err := sys.SetNice(s.Nice); err != nil {
			return fmt.Errorf("cannot set nice = %d: %w; to go below its own value the daemon needs CAP_SYS_NICE", s.Nice, err)
		}
	}
	if len(s.CPUs) > 0 {
		if err := sys.SetAffinity(s.CPUs); err != nil {
			return fmt.Errorf("cannot bind it to CPUs %v: %w; see \"cpus\" in the configuration, and which CPUs the daemon may use itself", s.CPUs, err)
		}
	}
	if s.OOMScoreAdj != 0 {
		if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(s.OOMScoreAdj)), 0); err != nil {
			return fmt.Errorf("cannot set oom_score_adj = %d: %w; to go below its own value the daemon needs CAP_SYS_RESOURCE", s.OOMScoreAdj, err)
		}
	}
	return nil
}

// late are the limits that are set last: the launcher's own runtime takes more of it than a worker may.
var late = map[string]bool{"as": true, "data": true, "stack": true}

// limit sets the limits that are set last, or all others.
func limit(s spec.Spec, last bool) error {
	for _, name := range slices.Sorted(maps.Keys(s.Limits)) {
		kind, ok := sys.LimitNamed(name)
		if late[name] != last {
			continue
		}
		value := sys.Unlimited
		if n := s.Limits[name]; n >= 0 {
			value = uint64(n)
		}
		if !ok {
			return fmt.Errorf("there is no limit %q", name)
		}
		if err := sys.Setrlimit(kind, value, value); err != nil {
			return fmt.Errorf("cannot set limit %s = %d: %w; to go above its own limit the daemon needs CAP_SYS_RESOURCE, or Limit%s= in its unit", name, s.Limits[name], err, strings.ToUpper(name))
		}
	}
	return nil
}
