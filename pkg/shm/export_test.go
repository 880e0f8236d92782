package shm

// Spare is spare, for tests.
func (r *Region) Spare() bool { return r.spare() }
