package config

import (
	"fmt"
	"slices"
)

// filterKeys are for groups that have stdin or stdout.
var filterKeys = []string{"filter_window", "ack", "delimiter", "stall_timeout"}

// filter checks the keys of filters.
func (v *validator) filter(at path, g *Group) {
	stdin, stdout, ack, window := at.key("stdin"), at.key("stdout"), at.key("ack"), at.key("filter_window")
	for _, end := range []struct {
		path
		name string
	}{{stdin, g.Stdin}, {stdout, g.Stdout}} {
		if v.given(end.path) && (v.bad(end.path) || end.name == "") {
			if !v.bad(end.path) {
				v.fail(end.path, "it is empty; name a channel, or remove the key")
			}
			return
		}
	}
	if !g.Filter() {
		for _, key := range filterKeys {
			if v.given(at.key(key)) {
				v.fail(at.key(key), `it is for filters; add stdin = "CHANNEL" or stdout = "CHANNEL", or remove it`)
			}
		}
		return
	}
	if len(g.Command) == 0 && (g.Builtin != "" || v.given(at.key("builtin"))) {
		end := stdin
		if g.Stdin == "" {
			end = stdout
		}
		v.fail(end, "a built-in worker reads and writes no lines; use consume and produce, or a command")
		return
	}
	v.oneOf(ack, g.Ack, AckOutput, AckWritten)
	v.oneOf(at.key("delimiter"), g.Delimiter, DelimiterNewline, DelimiterNUL)
	v.duration(at.key("stall_timeout"), g.StallTimeout, 0)
	if len(g.Consume) > 0 {
		v.fail(at.key("consume"), "a filter has no channels but stdin and stdout; remove it, or remove those")
	}
	if len(g.Produce) > 0 {
		v.fail(at.key("produce"), "a filter has no channels but stdin and stdout; remove it, or remove those")
	}
	if g.Ready == ReadyCall {
		v.fail(at.key("ready"), "a filter cannot say that it is ready; remove the key: it is ready when it runs")
	}
	in := v.queue(stdin, g.Stdin)
	v.queue(stdout, g.Stdout)
	if g.Stdin == g.Stdout {
		v.fail(stdout, "the filter would feed itself: it reads %q as well; name another channel", g.Stdin)
	}
	if in != nil && in.MaxDeliveries == 0 {
		v.fail(stdin, "%q has max_deliveries = 0, and messages that no filter can take need its dead letters; give it 1 to %d", g.Stdin, MaxDeliveries)
	}
	v.acks(g, stdin, ack)
	v.window(g, in, window)
}

// acks checks that something acks the messages of a filter.
func (v *validator) acks(g *Group, stdin, ack path) {
	switch {
	case g.Stdin == "" && v.given(ack):
		v.fail(ack, "without stdin there is nothing to ack; remove it")
	case g.Stdin != "" && g.Stdout == "" && g.Ack == AckOutput:
		v.fail(stdin, `without stdout nothing tells when a message is done; add ack = "written" (what the filter has not finished when it dies is lost), or stdout = "CHANNEL"`)
	}
}

// window checks filter_window; in is nil if there is no such channel.
func (v *validator) window(g *Group, in *Channel, window path) {
	switch {
	case !v.between(window, g.FilterWindow, 1, MaxWindow):
	case g.Stdin == "" && v.given(window):
		v.fail(window, "without stdin no message is in flight; remove it")
	case g.Ack == AckWritten && v.given(window):
		v.fail(window, `with ack = "written" a message is done when it is written, and none is in flight; remove one of the two`)
	case g.FilterWindow == 1 || in == nil:
	case in.MaxDeliveries == 1:
		v.fail(window, "with max_deliveries = 1 of %q one death makes dead letters of all that is in flight; give it 2 or more, or use 1 here", g.Stdin)
	case g.FilterWindow > in.Slots:
		v.fail(window, "%d is more than %q has slots; use %d at most", g.FilterWindow, g.Stdin, in.Slots)
	}
}

// nonEmpty is the list of a name, if there is one.
func nonEmpty(name string) []string {
	if name == "" {
		return nil
	}
	return []string{name}
}

// queue checks that a channel is declared and a queue, and returns it; "" is no channel.
func (v *validator) queue(p path, name string) *Channel {
	if name == "" {
		return nil
	}
	i := slices.IndexFunc(v.c.Channels, func(ch Channel) bool { return ch.Name == name })
	if i < 0 {
		v.channels(p, []string{name})
		return nil
	}
	ch := &v.c.Channels[i]
	if ch.Kind != KindQueue {
		text := "name a queue"
		if ch.Kind == KindTopic && p[len(p)-1] == "stdin" { // its messages are nobody's: one that a filter died with would not come back
			text = fmt.Sprintf("a topic gives back nothing that a filter died with: name a queue, and let a worker fill it, a shell with shmctl sub %s | shmctl pub QUEUE", name)
		}
		v.fail(p, "%q is a %s, and a filter reads and writes queues; %s", name, ch.Kind, text)
		return nil
	}
	return ch
}
