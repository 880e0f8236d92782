package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// Pictures are SVG, written by hand: bars and points on one axis, in colours that light and dark pages bear.

const (
	colourOurs   = "#2b8a3e"
	colourLimit  = "#868e96"
	colourPeer   = "#4c6ef5"
	colourMissed = "#e03131"
)

// A bar is one line of a picture.
type bar struct {
	label, text string
	value       float64
	colour      string
	hollow      bool // quoted, not measured
}

// bars draws horizontal bars on a logarithmic axis, in the order given.
func bars(title, axis string, all []bar) string {
	const left, right, top, line, width = 230, 90, 46, 24, 760
	low, high := math.Inf(1), math.Inf(-1)
	for _, b := range all {
		low, high = min(low, b.value), max(high, b.value)
	}
	lo, hi := math.Floor(math.Log10(low)-0.3), math.Log10(high)
	if hi <= lo {
		hi = lo + 1
	}
	x := func(v float64) float64 { return left + (math.Log10(v)-lo)/(hi-lo)*(width-left-right) }
	height := top + line*len(all) + 40
	var s strings.Builder
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", width, height)
	fmt.Fprintf(&s, "<rect width=\"%d\" height=\"%d\" fill=\"#ffffff\"/>\n", width, height)
	fmt.Fprintf(&s, "<text x=\"12\" y=\"24\" font-size=\"15\" font-weight=\"bold\">%s</text>\n", html.EscapeString(title))
	bottom := top + line*len(all)
	for d := math.Ceil(lo); d <= hi; d++ {
		at := x(math.Pow(10, d))
		fmt.Fprintf(&s, "<line x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\" stroke=\"#dee2e6\"/>\n", at, top-6, at, bottom)
		fmt.Fprintf(&s, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\" fill=\"#495057\">%s</text>\n", at, bottom+16, short(math.Pow(10, d)))
	}
	fmt.Fprintf(&s, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\" fill=\"#495057\">%s, logarithmic</text>\n", (left+width-right)/2, bottom+33, html.EscapeString(axis))
	for i, b := range all {
		y := top + i*line
		fill, stroke := b.colour, "none"
		if b.hollow {
			fill, stroke = "#ffffff", b.colour
		}
		fmt.Fprintf(&s, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", left-8, y+15, html.EscapeString(b.label))
		fmt.Fprintf(&s, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\" stroke=\"%s\"/>\n", left, y+3, max(x(b.value)-left, 1), line-8, fill, stroke)
		fmt.Fprintf(&s, "<text x=\"%.1f\" y=\"%d\" fill=\"#212529\">%s</text>\n", x(b.value)+6, y+15, html.EscapeString(b.text))
	}
	s.WriteString("</svg>\n")
	return s.String()
}

// A point is a value at a place of the horizontal axis.
type point struct{ x, y float64 }

// A curve is a row of points with a name.
type curve struct {
	label  string
	points []point
}

// curves draws curves on logarithmic axes.
func curves(title, xAxis, yAxis string, all []curve) string {
	const left, right, top, width, height = 80, 190, 46, 760, 380
	palette := []string{colourOurs, colourPeer, "#e8590c", "#862e9c", "#0c8599"}
	x0, x1, y0, y1 := math.Inf(1), math.Inf(-1), math.Inf(1), math.Inf(-1)
	for _, c := range all {
		for _, p := range c.points {
			x0, x1, y0, y1 = min(x0, p.x), max(x1, p.x), min(y0, p.y), max(y1, p.y)
		}
	}
	y0, y1 = math.Floor(math.Log10(y0)), math.Ceil(math.Log10(y1)+1e-9)
	x0, x1 = math.Log10(x0), math.Log10(x1)
	if x1 <= x0 {
		x1 = x0 + 1
	}
	if y1 <= y0 {
		y1 = y0 + 1
	}
	bottom := height - 60
	x := func(v float64) float64 { return left + (math.Log10(v)-x0)/(x1-x0)*(width-left-right) }
	y := func(v float64) float64 { return float64(bottom) - (math.Log10(v)-y0)/(y1-y0)*float64(bottom-top) }
	var s strings.Builder
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", width, height)
	fmt.Fprintf(&s, "<rect width=\"%d\" height=\"%d\" fill=\"#ffffff\"/>\n", width, height)
	fmt.Fprintf(&s, "<text x=\"12\" y=\"24\" font-size=\"15\" font-weight=\"bold\">%s</text>\n", html.EscapeString(title))
	for d := y0; d <= y1; d++ {
		at := y(math.Pow(10, d))
		fmt.Fprintf(&s, "<line x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\" stroke=\"#dee2e6\"/>\n", left, at, width-right, at)
		fmt.Fprintf(&s, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\" fill=\"#495057\">%s</text>\n", left-6, at+4, short(math.Pow(10, d)))
	}
	seen := map[float64]bool{}
	for i, c := range all {
		colour := palette[i%len(palette)]
		var path []string
		for _, p := range c.points {
			path = append(path, fmt.Sprintf("%.1f,%.1f", x(p.x), y(p.y)))
			if !seen[p.x] {
				seen[p.x] = true
				fmt.Fprintf(&s, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\" fill=\"#495057\">%s</text>\n", x(p.x), bottom+17, short(p.x))
			}
			fmt.Fprintf(&s, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>\n", x(p.x), y(p.y), colour)
		}
		fmt.Fprintf(&s, "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"/>\n", strings.Join(path, " "), colour)
		last := c.points[len(c.points)-1]
		fmt.Fprintf(&s, "<text x=\"%.1f\" y=\"%.1f\" fill=\"%s\">%s</text>\n", x(last.x)+8, y(last.y)+4, colour, html.EscapeString(c.label))
	}
	fmt.Fprintf(&s, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\" fill=\"#495057\">%s</text>\n", (left+width-right)/2, bottom+42, html.EscapeString(xAxis))
	fmt.Fprintf(&s, "<text x=\"12\" y=\"%d\" fill=\"#495057\">%s</text>\n", top-4, html.EscapeString(yAxis))
	s.WriteString("</svg>\n")
	return s.String()
}

// short prints a number of an axis.
func short(v float64) string {
	for _, u := range []struct {
		at   float64
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if v >= u.at*0.999 {
			return fmt.Sprintf("%.3g%s", v/u.at, u.name)
		}
	}
	return fmt.Sprintf("%.3g", v)
}
