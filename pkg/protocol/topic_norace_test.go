//go:build !race

package protocol

// overwriting says which topics TestTopicStress runs: with the race detector those alone in which nothing is overwritten while it is read.
var overwriting = []bool{false, true}

const raceEnabled = false
