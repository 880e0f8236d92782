package shm

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"reflect"
	"strconv"
	"unicode/utf8"
)

// Attributes stand in a record as the inside of a JSON object: "a":1,"g":{"b":true}.

// appendPending opens groups.
func appendPending(b []byte, groups []string) []byte {
	for _, name := range groups {
		b = appendKey(b, name)
		b = append(b, '{')
	}
	return b
}

// appendKey appends a key, and a comma before it if it is not the first of its object.
func appendKey(b []byte, key string) []byte {
	if n := len(b); n > 0 && b[n-1] != '{' { // no value ends so
		b = append(b, ',')
	}
	b = appendString(b, key)
	return append(b, ':')
}

// appendAttr appends an attribute, and nothing for one that slog wants ignored.
func appendAttr(b []byte, a slog.Attr) []byte {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		before := len(b)
		if a.Key != "" {
			b = appendKey(b, a.Key)
			b = append(b, '{')
		}
		inside := len(b)
		for _, member := range v.Group() {
			b = appendAttr(b, member)
		}
		switch {
		case len(b) == inside:
			return b[:before]
		case a.Key != "":
			b = append(b, '}')
		}
		return b
	}
	if a.Key == "" && v.Equal(slog.Value{}) {
		return b
	}
	return appendValue(appendKey(b, a.Key), v)
}

func appendValue(b []byte, v slog.Value) []byte {
	switch v.Kind() {
	case slog.KindString:
		return appendString(b, v.String())
	case slog.KindInt64:
		return strconv.AppendInt(b, v.Int64(), 10)
	case slog.KindUint64:
		return strconv.AppendUint(b, v.Uint64(), 10)
	case slog.KindBool:
		return strconv.AppendBool(b, v.Bool())
	case slog.KindDuration:
		return appendString(b, v.Duration().String())
	case slog.KindTime:
		return appendTime(b, v.Time())
	case slog.KindFloat64:
		if f := v.Float64(); !math.IsNaN(f) && !math.IsInf(f, 0) {
			return strconv.AppendFloat(b, f, 'g', -1, 64)
		}
		return appendString(b, v.String())
	}
	return appendAny(b, v.Any())
}

// appendAny appends what encoding/json makes of a value, or an error's text.
func appendAny(b []byte, v any) (out []byte) {
	before := len(b)
	defer func() { // a method of the value's
		if p := recover(); p != nil {
			text := fmt.Sprintf("!PANIC: %v", p)
			if r := reflect.ValueOf(v); r.Kind() == reflect.Pointer && r.IsNil() {
				text = "<nil>"
			}
			out = appendString(b[:before], text)
		}
	}()
	if err, ok := v.(error); ok {
		if _, ok := v.(json.Marshaler); !ok {
			return appendString(b, err.Error())
		}
	}
	data, err := json.Marshal(v)
	if err != nil {
		return appendString(b, fmt.Sprintf("%+v", v))
	}
	return append(b, data...)
}

const hexDigits = "0123456789abcdef"

// appendString appends a JSON string. What is no UTF-8 becomes U+FFFD.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	done := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				b = append(append(b, s[done:i]...), `\ufffd`...)
				done = i + 1
			}
			i += size
			continue
		}
		b = append(b, s[done:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, `\n`...)
		case '\t':
			b = append(b, `\t`...)
		case '\r':
			b = append(b, `\r`...)
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		done = i
	}
	return append(append(b, s[done:]...), '"')
}
