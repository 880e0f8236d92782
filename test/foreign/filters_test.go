package foreign

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// The example of docs/filters.md, with its README's kill.
func TestFilters(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	toml, err := os.ReadFile(root + "/examples/filters/shmd.toml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("name = \"filters\"\n", "name = \"test\"\n", "\"examples/", "\""+root+"/examples/").Replace(string(toml))
	d := testregion.Start(t, text)
	words, err := d.Attach(shm.Options{Produce: []string{"words"}}).Queue("words")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), testregion.Limit)
	defer cancel()
	send := func(word string) {
		if err := words.Send(ctx, []byte(word)); err != nil {
			t.Fatal(err)
		}
	}
	for _, w := range []string{"one", "two", "three", "seven", "eleven"} {
		send(w)
	}
	for _, w := range []string{"THREE", "SEVEN", "ELEVEN"} {
		d.WaitLog(fmt.Sprintf(`{\"word\":\"%s\",\"length\":%d}`, w, len(w)), `"worker":"long.0"`, `"stream":"stdout"`)
	}
	ws := d.WaitWorkers("known", func(ws []protocol.Worker) bool { return ws[0].Pid != ws[0].ShimPid })
	if err := syscall.Kill(ws[0].Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		send(fmt.Sprint("after", i))
	}
	for i := range 20 {
		d.WaitLog(fmt.Sprintf(`\"AFTER%d\"`, i), `"worker":"long.0"`)
	}
	if strings.Contains(d.Log(), `\"ONE\"`) {
		t.Error("a short word was not dropped")
	}
}
