//go:build race

package protocol

var overwriting = []bool{false}

const raceEnabled = true
