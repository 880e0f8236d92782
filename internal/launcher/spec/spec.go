// Package spec is what the daemon tells its re-exec'd self, the launcher, about the worker to start.
package spec

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// Env is the environment variable that carries a Spec; its presence makes shmd the launcher.
const Env = "SHMD_LAUNCH"

// Spec is one launch. The environment, the descriptors from 3 up and the process group are already the worker's.
type Spec struct {
	Command []string `json:"command,omitempty"` // what to exec; or
	Builtin string   `json:"builtin,omitempty"` // a built-in worker to stay as
	Dir     string   `json:"dir,omitempty"`
	User    *User    `json:"user,omitempty"`
	// Status is the descriptor of a pipe to the daemon: it is closed when the command runs, or an error is written to it first.
	Status int `json:"status"`
	// Consume and Produce are the worker's channels, for built-in workers.
	Consume []string `json:"consume,omitempty"`
	Produce []string `json:"produce,omitempty"`
	Filter  *Filter  `json:"filter,omitempty"` // Command is a filter

	Limits      map[string]int64 `json:"limits,omitempty"` // by the names of sys.LimitNamed; below 0: unlimited
	Nice        int              `json:"nice,omitempty"`   // 0: as it is; so with the others
	CPUs        []int            `json:"cpus,omitempty"`
	OOMScoreAdj int              `json:"oom_score_adj,omitempty"`
	Cgroup      string           `json:"cgroup,omitempty"` // directory of the cgroup to enter; "": none
}

// Filter says what the shim is to know of a filter: the keys of the configuration.
type Filter struct {
	Stdin        string        `json:"stdin,omitempty"`
	Stdout       string        `json:"stdout,omitempty"`
	Window       int           `json:"window"`
	Written      bool          `json:"written,omitempty"`
	Delimiter    byte          `json:"delimiter"`
	StopTimeout  time.Duration `json:"stop_timeout"`
	StallTimeout time.Duration `json:"stall_timeout"`
}

// User is the identity to take before the exec.
type User struct {
	UID    int    `json:"uid"`
	GID    int    `json:"gid"`
	Groups []int  `json:"groups"`
	Name   string `json:"name"` // for the environment, as Home
	Home   string `json:"home"`
}

// String encodes the spec as an environment entry.
func (s Spec) String() string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings and integers always marshal
	}
	return Env + "=" + string(b)
}

// FromEnviron reads the spec and removes it from the environment. ok is false if there is none.
func FromEnviron() (s Spec, ok bool, err error) {
	text, ok := os.LookupEnv(Env)
	if !ok {
		return s, false, nil
	}
	os.Unsetenv(Env)
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return s, true, fmt.Errorf("%s: %w (only shmd itself sets it)", Env, err)
	}
	return s, true, nil
}
