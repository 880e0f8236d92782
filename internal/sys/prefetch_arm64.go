package sys

// PrefetchesStores reports whether PrefetchStores is of use.
const PrefetchesStores = true
