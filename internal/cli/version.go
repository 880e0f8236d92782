package cli

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/shmd/shmd/internal/attach"
	"github.com/shmd/shmd/internal/version"
	"github.com/shmd/shmd/pkg/protocol"
)

func (a *app) versionCommand() *cobra.Command {
	return a.verb(cobra.Command{
		Use:   "version",
		Short: "print the versions of shmctl and of the daemon",
		Long: `version prints the version of shmctl and of the layout that it knows, and the
daemon's if one answers. It warns if they differ: memory of another major
version of the layout is refused.`,
		Example: `  shmctl version
  shmctl version -o json | jq -r .client.version`,
	}, noArgs, func(ctx context.Context, _ []string) error { return a.version(ctx) })
}

type versionJSON struct {
	Schema int `json:"schema"`
	Client struct {
		Version string `json:"version"`
		Layout  string `json:"layout"`
		Go      string `json:"go"`
		OS      string `json:"os"`
		Arch    string `json:"arch"`
	} `json:"client"`
	Daemon *daemonVersionJSON `json:"daemon,omitempty"` // absent: none answers
}

type daemonVersionJSON struct {
	Version string `json:"version"`
	Pid     int    `json:"pid"`
	Region  string `json:"region"`
}

func (a *app) version(ctx context.Context) error {
	var doc versionJSON
	doc.Schema = schema
	doc.Client.Version, doc.Client.Layout = version.Version, fmt.Sprintf("%d.%d", protocol.LayoutMajor, protocol.LayoutMinor)
	doc.Client.Go, doc.Client.OS, doc.Client.Arch = runtime.Version(), runtime.GOOS, runtime.GOARCH
	conn, err := attach.Dial(ctx, a.socketPath())
	switch {
	case err == nil:
		h := conn.Hello()
		conn.Close()
		doc.Daemon = &daemonVersionJSON{h.Version, h.Pid, h.Region}
		a.remarkVersion(h.Version)
	case errors.Is(err, attach.ErrNoDaemon), errors.Is(err, attach.ErrDeadSocket): // none to ask is no problem of this verb
	default:
		a.warn("%v", err)
	}
	if a.json() {
		return a.printJSON(doc)
	}
	text := version.String("shmctl") + "\n"
	if doc.Daemon != nil {
		text += fmt.Sprintf("shmd %s (region %s, pid %d)\n", printable(doc.Daemon.Version), printable(doc.Daemon.Region), doc.Daemon.Pid)
	}
	_, err = a.stdout.WriteString(text)
	return err
}

// remarkVersion warns if the daemon is of another version.
func (a *app) remarkVersion(daemon string) {
	if daemon != version.Version {
		a.warn("the daemon is version %s, this is shmctl %s: use the shmctl of its release, or restart the region with the new one", printable(daemon), version.Version)
	}
}
