//go:build arm64 || (amd64 && race)

package sys

const gathers = false // with the race detector: it does not see what assembly reads

func gather8(*byte, *[]byte, int) int  { panic("no assembly") }
func gather64(*byte, *[]byte, int) int { panic("no assembly") }
