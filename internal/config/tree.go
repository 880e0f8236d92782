package config

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	toml "github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// node is one key of the file with what it holds, and where both stand. go-toml decodes into
// structs but forgets where each value stood, so the tree is built from its AST; whether the file
// is TOML at all is for go-toml alone to say.
type node struct {
	key   string
	at    span          // of the key; of the value for an element of an array
	kind  unstable.Kind // Table, ArrayTable, InlineTable, Array or a scalar
	text  string        // a scalar: a string unquoted, the rest as it stands
	kids  []*node       // of tables, in the order of the file
	elems []*node       // of Array

	byName map[string]*node
	header bool // a table that had its own [header] already
}

func (n *node) isTable() bool {
	return n.kind == unstable.Table || n.kind == unstable.InlineTable || n.kind == unstable.ArrayTable
}

// tree builds nodes from the AST.
type tree struct {
	src  *source
	p    unstable.Parser
	errs Errors
}

// parseTree reads the text. complete is false if a syntax error ended it early; the tree holds
// what stood before.
func parseTree(src *source) (root *node, errs Errors, complete bool) {
	root = &node{kind: unstable.Table}
	if e, ok := src.notText(); !ok {
		return root, Errors{e}, false
	}
	t := tree{src: src}
	table := root
	t.p.Reset(src.data)
	for t.p.NextExpression() {
		switch x := t.p.Expression(); x.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = t.table(root, x)
		case unstable.KeyValue:
			t.keyValue(table, x)
		}
	}
	if err := t.p.Error(); err != nil {
		t.errs = append(t.errs, t.syntax(err))
		return root, t.errs, false
	}
	return root, t.errs, true
}

// notText refuses what cannot be a configuration, with a better word than the parser's.
func (s *source) notText() (Error, bool) {
	head := string(s.data[:min(len(s.data), 4)])
	refuse := func(text string) (Error, bool) {
		return Error{File: s.name, Line: 1, Col: 1, Msg: text}, false
	}
	switch {
	case len(s.data) > MaxFileSize:
		return refuse(fmt.Sprintf("more than %s: this is no configuration; give the path of one", FormatSize(MaxFileSize)))
	case strings.HasPrefix(head, "\xef\xbb\xbf"):
		return refuse("the file begins with a byte order mark; save it as UTF-8 without one")
	case strings.HasPrefix(head, "\xff\xfe") || strings.HasPrefix(head, "\xfe\xff"):
		return refuse("the file is UTF-16; save it as UTF-8")
	case strings.HasPrefix(head, "\x7fELF"):
		return refuse("the file is a program; give the path of a configuration")
	}
	return Error{}, true
}

// table finds or makes the table that a [header] or [[header]] names.
func (t *tree) table(root *node, x *unstable.Node) *node {
	n := root
	for it := x.Key(); it.Next(); {
		if !it.IsLast() {
			n = t.step(n, it.Node(), unstable.Table)
			continue
		}
		n = t.step(n, it.Node(), x.Kind)
		switch at := t.span(it.Node().Raw); {
		case !n.header: // made now, or on the way to a table within
			n.header, n.at = true, at
		case x.Kind == unstable.ArrayTable:
			return &node{kind: unstable.ArrayTable} // one more element; arrays of tables are refused anyway
		default:
			t.errs = append(t.errs, t.src.at(at,
				"table [%s] is there already, in line %d; merge the two", t.path(x), t.src.line(n.at.off)+1))
		}
	}
	return n
}

// keyValue puts a key and its value into a table.
func (t *tree) keyValue(table *node, x *unstable.Node) {
	n := table
	for it := x.Key(); it.Next(); {
		if !it.IsLast() {
			n = t.step(n, it.Node(), unstable.Table)
			continue
		}
		k := it.Node()
		if old := n.byName[string(k.Data)]; old != nil {
			t.errs = append(t.errs, t.src.at(t.span(k.Raw),
				"key %q is there already, in line %d; remove one", k.Data, t.src.line(old.at.off)+1))
			n = &node{kind: unstable.Table} // so that what is wrong within is found as well
		}
		kid := t.value(x.Value())
		kid.key, kid.at = string(k.Data), t.span(k.Raw)
		n.add(kid)
	}
}

// step goes from a table to a table within it, making it if there is none.
func (t *tree) step(n *node, k *unstable.Node, kind unstable.Kind) *node {
	kid := n.byName[string(k.Data)]
	switch {
	case kid == nil:
		kid = &node{kind: kind, key: string(k.Data), at: t.span(k.Raw)}
		n.add(kid)
	case kid.kind != unstable.Table && kid.kind != unstable.ArrayTable:
		what := "a value"
		if kid.kind == unstable.InlineTable {
			what = "a table in braces, which nothing can be added to"
		}
		t.errs = append(t.errs, t.src.at(t.span(k.Raw),
			"%q is %s since line %d; make it a [table] there, or remove this one", k.Data, what, t.src.line(kid.at.off)+1))
		return &node{kind: unstable.Table}
	}
	return kid
}

func (n *node) add(kid *node) {
	if n.byName == nil {
		n.byName = map[string]*node{}
	}
	n.byName[kid.key] = kid
	n.kids = append(n.kids, kid)
}

// value makes a node of a value.
func (t *tree) value(x *unstable.Node) *node {
	n := &node{kind: x.Kind, at: t.span(x.Raw)}
	switch x.Kind {
	case unstable.InlineTable:
		for it := x.Children(); it.Next(); {
			t.keyValue(n, it.Node())
		}
	case unstable.Array:
		for it := x.Children(); it.Next(); {
			n.elems = append(n.elems, t.value(it.Node()))
		}
	default:
		n.text = string(x.Data)
	}
	return n
}

// confirm has go-toml read the file as a whole: it knows all of TOML (what a number may look
// like, which tables exclude which). It tells its first error only; what is told of that line
// already is not told twice. Where so much is told that the file can hardly be a configuration,
// go-toml is not asked: it takes a time that grows with the square of the keys.
func (s *source) confirm(told Errors) Errors {
	const enough = 100
	if len(told) >= enough {
		return nil
	}
	var all map[string]any
	err := toml.Unmarshal(s.data, &all)
	if err == nil {
		return nil
	}
	text := strings.TrimPrefix(err.Error(), "toml: ")
	var where *toml.DecodeError
	if !errors.As(err, &where) {
		return Errors{{File: s.name, Msg: clean(text)}}
	}
	line, col := where.Position()
	for _, e := range told {
		if e.Line == line {
			return nil
		}
	}
	return Errors{s.at(span{s.lines[line-1] + col - 1, 1}, "%s", text)}
}

// unquoted matches a line whose value lacks its quotes, as in: restart = always
var unquoted = regexp.MustCompile(`^\s*[\w.\-]+\s*=\s*([\w@*/.\-]+)\s*(?:#.*)?$`)

// syntax makes an Error of the parser's, with a hint for the slip that is made most.
func (t *tree) syntax(err error) Error {
	var pe *unstable.ParserError
	if !errors.As(err, &pe) {
		return Error{File: t.src.name, Msg: err.Error()}
	}
	sp := t.span(t.p.Range(pe.Highlight))
	e := t.src.at(sp, "%s", pe.Message)
	if what, _, ok := strings.Cut(pe.Message, ": U+"); ok && len(pe.Highlight) > 0 && pe.Highlight[0] >= utf8.RuneSelf {
		r, _ := utf8.DecodeRune(t.src.data[sp.off:]) // the parser names its first byte
		e.Msg = fmt.Sprintf("%s: %#U; a key with other letters than A-Z needs quotes", what, r)
	}
	if r, _ := utf8.DecodeRune(t.src.data[sp.off:]); strings.ContainsRune("“”„‘’‚«»", r) {
		e.Msg = fmt.Sprintf("%q is no quote in TOML; write a straight one", r)
	}
	if m := unquoted.FindSubmatch(t.src.text(e.Line - 1)); m != nil {
		e.Msg = strings.TrimPrefix(e.Msg+unquotedHint(string(m[1])), "strings must be quoted; ")
	}
	return e
}

// unquotedHint says what to write for a value that lacks its quotes.
func unquotedHint(word string) string {
	switch strings.ToLower(word) {
	case "true", "yes", "on":
		return "; write true"
	case "false", "no", "off":
		return "; write false"
	}
	if strings.Trim(word, "0123456789.-_") == "" {
		return "" // a number that is none
	}
	return fmt.Sprintf("; strings need quotes, write %q", word)
}

func (t *tree) span(r unstable.Range) span { return span{int(r.Offset), int(r.Length)} }

// path writes a header's key as it stands between the brackets.
func (t *tree) path(x *unstable.Node) string {
	var parts []string
	for it := x.Key(); it.Next(); {
		parts = append(parts, string(t.p.Raw(it.Node().Raw)))
	}
	return strings.Join(parts, ".")
}
