package attach

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestRequestRoundTrip(t *testing.T) {
	for _, r := range []Request{
		{Op: OpPing},
		{Op: OpDetach},
		{Op: OpChannels},
		{Op: OpAttach, Role: RoleObserve},
		{Op: OpAttach, Role: RoleOperate, Name: "shmctl <&>", Produce: []string{"jobs"}, Consume: []string{"results", "größe"}},
	} {
		p, err := r.Encode()
		if err != nil {
			t.Fatalf("%+v: %v", r, err)
		}
		if strings.Contains(string(p), "\n") || strings.Contains(string(p), `\u00`) {
			t.Errorf("packet %s: wants one plain line", p)
		}
		got, err := DecodeRequest(p)
		r.V = Version
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%s: got %+v, %v, want %+v", p, got, err, r)
		}
	}
}

func TestReplyRoundTrip(t *testing.T) {
	for _, r := range []Reply{
		{OK: true, Pid: 17, Version: "0.1.0", Region: "default"},
		{OK: true, Attachment: 65535, FDs: []string{"roster", "group/parser"}, More: true,
			Channels: []Channel{{Name: "jobs", Kind: "queue", Slots: 1024, SlotSize: 4096, Produce: true}}},
		{Code: CodePermission, Error: "you may not"},
		{Code: "from-the-future", Error: "…"},
	} {
		p, err := r.Encode()
		if err != nil {
			t.Fatalf("%+v: %v", r, err)
		}
		got, err := DecodeReply(p)
		r.V = Version
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%s: got %+v, %v, want %+v", p, got, err, r)
		}
		if (got.Err() == nil) != r.OK {
			t.Errorf("%s: Err() = %v", p, got.Err())
		}
	}
}

func TestDecodeRequestRefuses(t *testing.T) {
	long := strings.Repeat("x", 65)
	for _, c := range []struct {
		packet, code, text string
	}{
		{``, CodeBadRequest, "not a JSON object"},
		{`null`, CodeBadRequest, "not a JSON object"},
		{`["v",1]`, CodeBadRequest, "not a JSON object"},
		{`{"v":1,"op":"ping"`, CodeBadRequest, "unexpected end"},
		{`{"v":1,"op":"ping"} {}`, CodeBadRequest, "after top-level value"},
		{"{\"v\":1,\"op\":\"ping\"}\x00", CodeBadRequest, "after top-level value"},
		{"{\"v\":1,\"op\":\"\xff\"}", CodeBadRequest, "UTF-8"},
		{`{"op":"ping"}`, CodeVersion, `say "v":1`},
		{`{"V":1,"op":"ping"}`, CodeVersion, `say "v":1`},
		{`{"v":2,"op":"ping","new":{}}`, CodeVersion, "version 2, this program speaks 1"},
		{`{"v":1e9,"op":"ping"}`, CodeBadRequest, "v: a number 1e9"},
		{`{"v":"1","op":"ping"}`, CodeBadRequest, "v: a string"},
		{`{"v":1}`, CodeBadRequest, `no "op"`},
		{`{"v":1,"op":7}`, CodeBadRequest, "op: a number"},
		{`{"v":1,"op":"explode","path":"x"}`, CodeUnknownOp, `unknown op "explode"; there are: ping, attach, detach, channels`},
		{`{"v":1,"op":"ping","x":1}`, CodeBadRequest, `unknown field "x"; there are: v, op,`},
		{`{"v":1,"op":"ping","OP":"ping"}`, CodeBadRequest, `unknown field "OP"`},
		{`{"v":1,"op":"ping","op":"attach"}`, CodeBadRequest, `field "op" is there twice`},
		{`{"v":1,"op":"ping","role":"observe"}`, CodeBadRequest, `op "ping" takes no "role"`},
		{`{"v":1,"op":"detach","produce":[]}`, CodeBadRequest, `op "detach" takes no "produce"`},
		{`{"v":1,"op":"attach"}`, CodeBadRequest, `role ""; there are: observe, operate`},
		{`{"v":1,"op":"attach","role":"root"}`, CodeBadRequest, `role "root"`},
		{`{"v":1,"op":"attach","role":"observe","name":null}`, CodeBadRequest, `field "name" is null`},
		{`{"v":1,"op":"attach","role":"observe","name":"` + long + `"}`, CodeBadRequest, "65 bytes; at most 64"},
		{`{"v":1,"op":"attach","role":"observe","name":"a\u001b[2J"}`, CodeBadRequest, "cannot be printed"},
		{`{"v":1,"op":"attach","role":"observe","produce":"jobs"}`, CodeBadRequest, `"produce" cannot hold a string`},
		{`{"v":1,"op":"attach","role":"observe","produce":["jobs","jobs"]}`, CodeBadRequest, `"jobs" is twice`},
		{`{"v":1,"op":"attach","role":"observe","consume":["a",""]}`, CodeBadRequest, `"consume[1]" is empty`},
		{`{"v":1,"op":"attach","role":"observe","consume":[null]}`, CodeBadRequest, `"consume[0]" is empty`},
		{`{"v":1,"op":"attach","role":"observe","consume":[` + strings.Repeat(`"a",`, MaxGrants) + `"b"]}`, CodeBadRequest, "1025 names"},
		{`{"v":1,"op":"ping","x":"` + strings.Repeat("x", MaxPacket) + `"}`, CodeBadRequest, "larger than 65536"},
		{strings.Repeat("[", 60000), CodeBadRequest, "not a JSON object"},
		{`{"v":` + strings.Repeat("[", 60000), CodeBadRequest, "depth"},
	} {
		_, err := DecodeRequest([]byte(c.packet))
		if err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%.80s: error %v, want %q in it", c.packet, err, c.text)
			continue
		}
		r := Refusal(err)
		if r.Code != c.code {
			t.Errorf("%.80s: code %s, want %s", c.packet, r.Code, c.code)
		}
		if _, err := r.Encode(); err != nil {
			t.Errorf("%.80s: its refusal cannot be sent: %v", c.packet, err)
		}
	}
}

func TestDecodeReplyRefuses(t *testing.T) {
	for _, c := range []struct{ packet, text string }{
		{`{"v":1}`, "a refusal needs"},
		{`{"v":1,"ok":false,"code":"busy"}`, "a refusal needs"},
		{`{"v":1,"ok":false,"code":"busy","error":"x","fds":["a"]}`, "nothing else"},
		{`{"v":1,"ok":true,"code":"busy"}`, `no "code"`},
		{`{"v":1,"ok":true,"pid":-1}`, "pid -1"},
		{`{"v":1,"ok":true,"attachment":65536}`, `"attachment" cannot hold a number 65536`},
		{`{"v":1,"ok":true,"fds":["a","a"]}`, "twice"},
		{`{"v":1,"ok":true,"channels":[{"name":"a","kind":"queue","Slots":1}]}`, `unknown field "channels[0].Slots"`},
		{`{"v":1,"ok":true,"channels":[{"name":"a","kind":"queue","slots":-1}]}`, "cannot hold a number -1"},
		{`{"v":1,"ok":true,"channels":[{"name":"","kind":"queue"}]}`, `"channels[0].name" is empty`},
		{`{"v":1,"ok":true,"channels":[{"name":"a","name":"b","kind":"queue"}]}`, `field "name" is there twice`},
		{`{"v":1,"ok":true,"extra":0}`, `unknown field "extra"`},
		{`{"v":3,"ok":true}`, "version 3, this program speaks 1"},
		{`{"v":3,"ok":false,"code":"version","error":"speak 3"}`, "the daemon says: speak 3"},
	} {
		if _, err := DecodeReply([]byte(c.packet)); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: error %v, want %q in it", c.packet, err, c.text)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	if _, err := (Request{Op: "explode"}).Encode(); !errors.As(err, new(*UnknownOpError)) {
		t.Error(err)
	}
	if _, err := (Request{Op: OpAttach, Role: RoleObserve, Name: "a\xff"}).Encode(); !errors.Is(err, ErrBadPacket) {
		t.Error(err)
	}
	if _, err := (Reply{OK: true, Version: strings.Repeat("x", MaxPacket)}).Encode(); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}

func TestRefusal(t *testing.T) {
	if r := Refusal(&RefusedError{CodeNoChannel, "no such channel"}); r.Code != CodeNoChannel || r.Error != "no such channel" {
		t.Errorf("%+v", r)
	}
	r := Refusal(errors.New(strings.Repeat("€", MaxError)))
	if len(r.Error) > MaxError || !strings.HasSuffix(r.Error, "€…") {
		t.Errorf("%d bytes, ends with %q", len(r.Error), r.Error[len(r.Error)-8:])
	}
	if err := Refusal(&RefusedError{CodePermission, "x"}).Err(); !errors.Is(err, ErrPermission) {
		t.Errorf("%v is no ErrPermission", err)
	}
	if err := Refusal(&RefusedError{CodeBusy, "x"}).Err(); errors.Is(err, ErrPermission) {
		t.Errorf("%v is ErrPermission", err)
	}
}

func FuzzDecodeRequest(f *testing.F) {
	for _, s := range []string{
		`{"v":1,"op":"ping"}`,
		`{"v":1,"op":"attach","role":"operate","name":"x","produce":["a"],"consume":["b","c"]}`,
		`{"v":2,"op":"x"}`, `{"v":1,"op":"detach","x":[{}]}`, `[]`, ``, `{"v":1,"op":"ping","op":"ping"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		r, err := DecodeRequest(p)
		if err != nil {
			if _, err := Refusal(err).Encode(); err != nil {
				t.Fatalf("%q: its refusal cannot be sent: %v", p, err)
			}
			return
		}
		q, err := r.Encode()
		if err != nil {
			t.Fatalf("%q decodes to %+v, which does not encode: %v", p, r, err)
		}
		again, err := DecodeRequest(q)
		if err != nil {
			t.Fatalf("%q: %v", q, err)
		}
		for _, l := range []*[]string{&r.Produce, &r.Consume} { // [] is sent as nothing
			if len(*l) == 0 {
				*l = nil
			}
		}
		if !reflect.DeepEqual(r, again) {
			t.Fatalf("%+v became %+v", r, again)
		}
	})
}

func FuzzDecodeReply(f *testing.F) {
	for _, s := range []string{
		`{"v":1,"ok":true,"pid":1,"version":"0","region":"default"}`,
		`{"v":1,"ok":true,"attachment":17,"fds":["roster","command"],"more":true,"channels":[{"name":"jobs","kind":"queue","slots":8,"slot_size":64}]}`,
		`{"v":1,"ok":false,"code":"permission","error":"no"}`,
		`{"v":9,"ok":false,"code":"version","error":"no"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		r, err := DecodeReply(p)
		if err != nil {
			return
		}
		if _, err := r.Encode(); err != nil && !errors.Is(err, ErrTooLarge) { // escapes may be longer than what they stand for
			t.Fatalf("%q decodes to %+v, which does not encode: %v", p, r, err)
		}
	})
}
