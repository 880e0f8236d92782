package cli

import (
	"fmt"
	"html"
	"strings"
	"time"

	"github.com/shmd/shmd/internal/config"
)

// svg draws the histograms one below the other. Its colours are for light and dark pages.
func (all benchJSON) svg() string {
	const left, width, right, line, head = 190, 760, 90, 20, 72
	height := 16
	for _, k := range all.Kinds {
		height += head + line*len(k.RoundTrip.Histogram)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"13\">\n", width, height)
	fmt.Fprintf(&b, "<rect width=\"%d\" height=\"%d\" fill=\"#ffffff\"/>\n", width, height)
	y := 0
	text := func(x, y int, more, format string, args ...any) {
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\"%s>%s</text>\n", x, y, more, html.EscapeString(fmt.Sprintf(format, args...)))
	}
	ns := func(v int64) string { return took(time.Duration(v)) }
	for _, k := range all.Kinds {
		t := k.RoundTrip
		text(12, y+24, ` font-size="15" font-weight="bold"`, "%s: round trips of %s, wait %s", k.Kind, config.FormatSize(all.Size), all.Wait)
		text(12, y+44, ` fill="#495057"`, "p50 %s, p90 %s, p99 %s, p99.9 %s, max %s; throughput %s, %s/s", ns(t.P50), ns(t.P90), ns(t.P99), ns(t.P999), ns(t.Max),
			perSecond(k.Throughput.Rate), size(int64(k.Throughput.Bytes)))
		most := int64(1)
		for _, r := range t.Histogram {
			most = max(most, r.Count)
		}
		for i, r := range t.Histogram {
			at := y + 56 + i*line
			w := float64(r.Count) / float64(most) * (width - left - right)
			text(left-8, at+14, ` text-anchor="end"`, "%s – %s", ns(r.From), ns(r.To))
			fmt.Fprintf(&b, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"#2b8a3e\"/>\n", left, at+2, max(w, 0.5), line-4)
			fmt.Fprintf(&b, "<text x=\"%.1f\" y=\"%d\" fill=\"#212529\">%s%%</text>\n", left+w+6, at+14, html.EscapeString(percent(float64(r.Count)/float64(max(t.Count, 1)))))
		}
		y += head + line*len(t.Histogram)
	}
	b.WriteString("</svg>\n")
	return b.String()
}
