// Package version holds the version of the binaries.
package version

import (
	"fmt"
	"runtime"

	"github.com/shmd/shmd/pkg/protocol"
)

// Version is set by the linker: -X github.com/shmd/shmd/internal/version.Version=v1.2.3.
var Version = "devel"

// String says the version, the layout version and the toolchain in one line.
func String(program string) string {
	return fmt.Sprintf("%s %s (layout %d.%d, %s, %s/%s)", program, Version, protocol.LayoutMajor, protocol.LayoutMinor,
		runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
