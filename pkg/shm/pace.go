package shm

import "github.com/shmd/shmd/internal/sys"

// How the ends of a lane spin before they sleep. What another CPU writes has to come from there each time that it is looked at, and has to be taken from here
// before it is written again; so who is as fast as its peer does best to look seldom and then to find much.
const (
	peeks   = 2  // looks between two pauses: more of them take the line from a producer that is about to write there
	glances = 64 // pauses, of up to 50 ns: so long an end looks without any preparation
	mostLag = 256
	lag     = 4
	plenty  = 32 // slots found at a look: a longer rest gains nothing
)

// pace is for a consumer that finds nothing. If what is sent was there at once the last times, the producer is as fast as this: then it rests before it looks, until
// so much comes meanwhile that a look more or less does not matter. One that finds a single message then has waited in vain.
type pace struct {
	lag  int // pauses before a look
	more bool
}

// rest is the rest before the first look of a consumer that took run slots since it last rested.
func (p *pace) rest(run, slots int) {
	enough := min(plenty, slots/8)
	switch {
	case p.lag > 0 && run <= 1:
		p.lag = 0
	case run > 2*enough:
		p.lag /= 2
	}
	p.more = run < enough || p.lag == 0
	for range p.lag {
		sys.Pause()
	}
}

// found is called with the number of pauses since the rest when there is something.
func (p *pace) found(pauses int) {
	if pauses == 0 && p.more {
		p.lag = min(max(2*p.lag, lag), mostLag)
	}
}
