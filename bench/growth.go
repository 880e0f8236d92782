package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// A growth is a cost over something that grows. It has no reference: its shape is what counts.
type growth struct {
	name, title, x, y string
	steps             []int
	// at measures one step. Keys are the names of curves.
	at func(ctx context.Context, l *lab, step int, quick bool) (result, error)
}

// A growthSample is a point of docs/bench.json.
type growthSample struct {
	Measure string  `json:"measure"`
	At      int     `json:"at"`
	Value   float64 `json:"value"` // median
	Runs    int     `json:"runs"`
}

func growths() []*growth {
	return []*growth{
		{
			name: "growth, channels", title: "More channels in a region, all held by one process", x: "channels", y: "see the curves", steps: []int{1, 10, 100, 1000},
			at: growChannelsAt,
		},
		{
			name: "growth, consumers", title: "More consumers of a queue with one producer, 64 B, two CPUs", x: "consumer processes", y: "messages a second", steps: []int{1, 4, 16, 64},
			at: func(ctx context.Context, l *lab, n int, quick bool) (result, error) {
				if err := l.startRegion(queueTOML("there", 1024, 64, "")); err != nil {
					return nil, err
				}
				r, err := l.crowd(ctx, params{size: 64, busy: true}, 1, n)
				return result{"in total": r["rate"]}, err
			},
		},
		{
			name: "growth, message size", title: "Larger messages, copied in and summed, two CPUs", x: "bytes (1 stands for an empty message)", y: "ns a message",
			steps: []int{0, 8, 64, 512, 4 << 10, 32 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20},
			at:    growSizeAt,
		},
		{
			name: "growth, waiting goroutines", title: "More goroutines of one process waiting on a queue", x: "goroutines", y: "see the curves", steps: []int{1, 10, 100, 1000},
			at: func(ctx context.Context, l *lab, n int, quick bool) (result, error) {
				if err := l.startRegion(queueTOML("there", 64, 64, "")); err != nil {
					return nil, err
				}
				p := params{size: 64, busy: true, pace: 2 * time.Millisecond, peers: n}.with(10, 200)
				if quick {
					p.count = 10
				}
				r, err := l.beside(ctx, p, "grow-waiters")
				return result{"µs from send to receive, p50": r["p50"] / 1e3, "threads of the process": r["threads"]}, err
			},
		},
	}
}

func growChannelsAt(ctx context.Context, l *lab, n int, quick bool) (result, error) {
	var toml strings.Builder
	for i := range n {
		toml.WriteString(queueTOML(fmt.Sprint("c", i), 64, 64, "dead_slots = 2\n"))
	}
	begin := time.Now()
	if err := l.startRegion(toml.String()); err != nil {
		return nil, err
	}
	started := time.Since(begin)
	p := params{size: 64, busy: true, peers: n}.with(1000, 20000)
	if quick {
		p.count = 100
	}
	r, err := l.beside(ctx, p, "grow-channels")
	return result{"ms to start the daemon": float64(started.Microseconds()) / 1e3, "ms to attach": r["attach_ms"], "ns to send, receive, ack": r["p50"]}, err
}

func growSizeAt(ctx context.Context, l *lab, size int, quick bool) (result, error) {
	slots := 1024
	for slots > 4 && slots*size > footprint {
		slots /= 2
	}
	if err := l.startRegion(queueTOML("there", slots, max(size, 8), oneToOne)); err != nil {
		return nil, err
	}
	count := min(1000000, max(50, (2<<30)/max(size, 1)))
	if quick {
		count = max(10, count/50)
	}
	r, err := l.pair(ctx, params{size: size, busy: true}.with(2*slots, count), "lane-receive", "lane-send", false)
	return result{"near or far, as it was": 1e9 / r["rate"]}, err
}

// run measures every step n times.
func (g *growth) run(ctx context.Context, l *lab, n int, quick bool, say func(string)) ([]growthSample, error) {
	defer l.stopRegion()
	steps := g.steps
	if quick {
		steps = steps[:2]
	}
	var samples []growthSample
	for _, step := range steps {
		values := map[string][]float64{}
		var keys []string
		for k := range n {
			say(fmt.Sprintf("%s, %d %s, round %d of %d", g.name, step, g.x, k+1, n))
			r, err := g.at(ctx, l, step, quick)
			if err != nil {
				return nil, fmt.Errorf("%s at %d: %w", g.name, step, err)
			}
			keys = keys[:0]
			for key, v := range r {
				values[key] = append(values[key], v)
				keys = append(keys, key)
			}
		}
		for _, key := range sorted(keys) {
			samples = append(samples, growthSample{g.name + ": " + key, step, median(values[key]), n})
		}
	}
	return samples, nil
}

// growthPictures draws a picture of each growth that was measured.
func (d *document) growthPictures() map[string]string {
	files := map[string]string{}
	for _, g := range growths() {
		var all []curve
		for _, s := range d.Growth {
			label, ok := strings.CutPrefix(s.Measure, g.name+": ")
			if !ok {
				continue
			}
			at := -1
			for i := range all {
				if all[i].label == label {
					at = i
				}
			}
			if at < 0 {
				all, at = append(all, curve{label: label}), len(all)
			}
			all[at].points = append(all[at].points, point{max(float64(s.At), 1), s.Value})
		}
		if len(all) > 0 {
			files["bench-"+strings.ReplaceAll(strings.ReplaceAll(g.name, ",", ""), " ", "-")+".svg"] = curves(g.title, g.x, g.y, all)
		}
	}
	return files
}
