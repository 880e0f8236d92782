package attach

import (
	"os"
	"strings"
	"testing"
)

// Every example of docs/protocol.md is what the document says it is.
func TestDocumentedExamples(t *testing.T) {
	const path = "../../docs/protocol.md"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	used := map[string]bool{} // ops, roles and codes that have an example
	kind := ""
	for i, line := range strings.Split(string(b), "\n") {
		switch {
		case strings.HasPrefix(line, "```"):
			kind, _ = strings.CutPrefix(line, "```json ")
			if kind == line {
				kind = ""
			}
			continue
		case kind == "":
			continue
		}
		seen[kind]++
		switch kind {
		case "request":
			r, err := DecodeRequest([]byte(line))
			if err != nil {
				t.Errorf("%s:%d: %v", path, i+1, err)
			}
			used[r.Op], used[r.Role] = true, true
		case "reply":
			r, err := DecodeReply([]byte(line))
			if err != nil {
				t.Errorf("%s:%d: %v", path, i+1, err)
			}
			if r.OK && r.Err() != nil {
				t.Errorf("%s:%d: %v", path, i+1, r.Err())
			}
		case "refused":
			code, packet, _ := strings.Cut(line, " ")
			_, err := DecodeRequest([]byte(packet))
			if err == nil {
				t.Errorf("%s:%d: accepted", path, i+1)
			} else if got := Refusal(err).Code; got != code {
				t.Errorf("%s:%d: code %s (%v)", path, i+1, got, err)
			}
			used[code] = true
		default:
			t.Errorf("%s:%d: an example of kind %q is not checked", path, i+1, kind)
		}
	}
	if seen["request"] < 5 || seen["reply"] < 8 || seen["refused"] < 10 {
		t.Errorf("found only %v examples", seen)
	}
	for _, op := range append(ops, RoleObserve, RoleOperate) {
		if !used[op] {
			t.Errorf("%s: no example of %q", path, op)
		}
	}
	for _, code := range []string{CodePermission, CodeVersion, CodeUnknownOp, CodeBadRequest, CodeNoChannel, CodeBusy, CodeConfig, CodeUpgrade} {
		if !strings.Contains(string(b), "\n| `"+code+"` |") {
			t.Errorf("%s: code %q is not in the table", path, code)
		}
	}
}
