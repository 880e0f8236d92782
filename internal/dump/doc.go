// Package dump writes a region's memory into one file and reads it back: for `shmctl dump`, for the daemon when a group fails, and for inspect and verify,
// which look at such a file as they look at the living region.
//
// The file is a tar archive compressed with zstd, so it opens without shmd, too:
//
//	segments/NAME     the bytes of a segment, one entry each (NAME may have a slash: group/parser)
//	manifest.json     the last entry: what the region was, and what is in the archive (Manifest)
//
// The manifest is last because it says what was seen while the segments were copied; an archive that ends before it is an unfinished one, and is refused.
//
// Nobody is stopped for a dump. Each segment is copied once, from its beginning to its end, while processes go on; so a message may be in the copy as it was
// before a step of somebody's, and a counter as it was after it. Each word is whole. The manifest says of each segment whether its head was the same
// before and after, which means that it was at rest.
package dump
