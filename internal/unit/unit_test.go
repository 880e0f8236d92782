package unit

import "testing"

func TestHints(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{Start("default"), "systemctl start shmd, or shmd -c FILE"},
		{Start("web"), "systemctl start shmd@web, or shmd -c FILE"},
		{Log("default"), "journalctl -u shmd"},
		{Log("web"), "journalctl -u shmd@web"},
		{Shmctl("default") + "ps", "shmctl ps"},
		{Shmctl("web") + "ps", "shmctl -r web ps"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}
