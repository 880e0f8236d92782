package daemon_test

func client() error { return nil }
