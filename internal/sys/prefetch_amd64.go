package sys

// PrefetchesStores reports whether PrefetchStores is of use. On AMD's processors (family 25, model 17) no pattern of stores gained anything by a PREFETCHW, in C or
// here, and a call costs: docs/speed.md, "Another processor".
var PrefetchesStores = vendor() != 'A'|'u'<<8|'t'<<16|'h'<<24

// vendor returns the first four letters of the processor's vendor.
func vendor() uint32
