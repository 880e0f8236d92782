// Package attrs reads and writes the attributes of log records: the inside of a JSON object, such as "a":1,"g":{"b":true}. What a worker
// wrote is checked here, not where it is copied.
package attrs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Attr is one attribute. The members of an object have the object's name and a dot before their own.
type Attr struct {
	Key   string
	Value any // string, json.Number, bool, nil; a json.RawMessage for a list
}

// Format writes pairs of keys and values. Errors and what has a String method are written as their text. A key without a value gets none.
func Format(pairs []any) string {
	var b bytes.Buffer
	for i := 0; i+1 < len(pairs); i += 2 {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		write(&b, fmt.Sprint(pairs[i]))
		b.WriteByte(':')
		switch v := pairs[i+1].(type) {
		case error:
			write(&b, v.Error())
		case fmt.Stringer:
			write(&b, v.String())
		default:
			write(&b, v)
		}
	}
	return b.String()
}

func write(b *bytes.Buffer, v any) {
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	if e.Encode(v) != nil {
		e.Encode(fmt.Sprint(v)) // Encode wrote nothing
	}
	b.Truncate(b.Len() - 1) // the line feed
}

// Parse takes attributes apart. On an error it returns what came before.
func Parse(raw string) (list []Attr, err error) {
	if raw == "" {
		return nil, nil
	}
	d := json.NewDecoder(strings.NewReader("{" + raw + "}"))
	d.UseNumber()
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	if err := members(d, "", 0, func(a Attr) { list = append(list, a) }); err != nil {
		return list, err
	}
	if _, err := d.Token(); err != io.EOF {
		return list, errors.New("attributes end before their end")
	}
	return list, nil
}

// deepest is how many objects may lie in each other.
const deepest = 64

func members(d *json.Decoder, prefix string, depth int, each func(Attr)) error {
	if depth > deepest {
		return errors.New("attributes are nested too deeply")
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		key := prefix + t.(string)
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return err
		}
		switch raw[0] {
		case '{':
			inner := json.NewDecoder(bytes.NewReader(raw))
			inner.UseNumber()
			if _, err := inner.Token(); err != nil {
				return err
			}
			if err := members(inner, key+".", depth+1, each); err != nil {
				return err
			}
		case '[':
			each(Attr{key, raw})
		default:
			v := json.NewDecoder(bytes.NewReader(raw))
			v.UseNumber()
			var value any
			if err := v.Decode(&value); err != nil {
				return err
			}
			each(Attr{key, value})
		}
	}
	_, err := d.Token()
	return err
}

// String returns the value as text.
func (a Attr) String() string {
	switch v := a.Value.(type) {
	case string:
		return v
	case json.RawMessage:
		return string(v)
	case nil:
		return "null"
	default:
		return fmt.Sprint(v)
	}
}

// Text writes attributes for people: KEY=VALUE, divided by spaces, with quotes where they are needed.
func Text(list []Attr) string {
	var b strings.Builder
	for i, a := range list {
		if i > 0 {
			b.WriteByte(' ')
		}
		v := a.String()
		if v == "" || strings.ContainsAny(v, " \"\n=") {
			v = fmt.Sprintf("%q", v)
		}
		b.WriteString(a.Key + "=" + v)
	}
	return b.String()
}
