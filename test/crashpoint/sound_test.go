package crashpoint

import (
	"fmt"

	"github.com/shmd/shmd/pkg/protocol"
)

// sound has verify look at a segment that was repaired after a death: no rule may be broken, and nothing may name the dead.
func sound(room []byte, isDead func(uint16) bool) error {
	n := get(room, protocol.OffsetofSegmentHeaderSegmentSize/8)
	list := protocol.Verify(room[:n:n], protocol.VerifyOptions{InUse: func(id uint16) bool { return !isDead(id) }})
	if len(list) > 0 {
		return fmt.Errorf("verify: %v", list)
	}
	return nil
}
