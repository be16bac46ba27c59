package tidemill

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"unsafe"
)

// The host allocates what it hands over by cabi_realloc, during which nothing may be imported: not even a clock. Go's
// allocator reads one whenever it collects or gives memory back. So arguments have memory of their own, which is
// used again as soon as they are copied.

const firstBytes = 64 << 10

var (
	first     [firstBytes]byte
	arguments = struct{ begin, next, end uintptr }{}
)

//go:linkname sbrk runtime.sbrk
func sbrk(bytes uintptr) unsafe.Pointer

//go:wasmexport cabi_realloc
func allocateArgument(old unsafe.Pointer, oldBytes, alignment, bytes uint32) unsafe.Pointer {
	if arguments.begin == 0 {
		useForArguments(uintptr(unsafe.Pointer(&first)), firstBytes)
	}
	align := uintptr(alignment)
	at := (arguments.next + align - 1) &^ (align - 1)
	if at+uintptr(bytes) > arguments.end {
		// More than before: at least twice as much, so that what is left behind is less than what is used.
		room := max(2*(arguments.end-arguments.begin), uintptr(bytes)+align)
		fresh := sbrk(room)
		if fresh == nil {
			panic("out of memory")
		}
		useForArguments(uintptr(fresh), room)
		at = (arguments.next + align - 1) &^ (align - 1)
	}
	arguments.next = at + uintptr(bytes)
	if oldBytes > 0 {
		copy(unsafe.Slice((*byte)(unsafe.Pointer(at)), bytes), unsafe.Slice((*byte)(old), oldBytes))
	}
	return unsafe.Pointer(at)
}

func useForArguments(begin, bytes uintptr) {
	arguments.begin, arguments.next, arguments.end = begin, begin, begin+bytes
}

// releaseArguments lets the memory of all arguments be used again.
func releaseArguments() { arguments.next = arguments.begin }

// Memory of the adapter for WASI preview 1, which keeps it.
//
//go:wasmexport cabi_realloc_adapter
func allocateForAdapter(_ unsafe.Pointer, _, alignment, bytes uint32) unsafe.Pointer {
	align := uintptr(alignment)
	at := uintptr(sbrk(uintptr(bytes) + align))
	return unsafe.Pointer((at + align - 1) &^ (align - 1))
}

// Collections run while the handler does, or at the end of a call: not between calls. One that began on its own must
// have ended by then.

const (
	// A collection begins on its own when this much was allocated since the last one, or a third less.
	growthBytes = 16 << 20
	// At the end of a call, one runs if this much was allocated since the last one; less than what it takes for one to
	// begin on its own, so that none is under way afterwards.
	collectBytes = 8 << 20
)

var (
	samples = []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}}
	percent = 100 * growthBytes / (4 << 20)
	last    uint64
)

func init() { debug.SetGCPercent(-1) }

func beginCollecting() { debug.SetGCPercent(percent) }

func endCollecting() {
	debug.SetGCPercent(-1)
	metrics.Read(samples[:1])
	allocated := samples[0].Value.Uint64()
	if allocated-last < collectBytes {
		return
	}
	last = allocated
	runtime.GC()
	metrics.Read(samples[1:])
	// The runtime counts from 4 MiB on; 400 % of less is growthBytes.
	live := max(samples[1].Value.Uint64(), 4<<20)
	percent = int(100 * growthBytes / live)
}
