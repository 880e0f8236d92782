package sys

// Parts are what PutParts copies. Its assembly knows where the fields lie.
type Parts struct {
	A string
	B []byte
	C string
}
