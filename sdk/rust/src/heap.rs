//! The guest's memory for allocations: it begins with a part of the memory that the instance has from its start.
//!
//! The standard library's allocator asks for more memory at its first allocation, and what an instance has grown by is
//! taken away again before the next one begins. Both change the protection of pages, which interrupts all processors
//! of the host, and so costs an event in a fresh instance more than its handler does. With this allocator, an event
//! that needs little memory needs no more than there is.
#![allow(unsafe_code, reason = "allocators hand out pointers")]

use core::alloc::{GlobalAlloc, Layout};
use core::arch::wasm32;
use core::cell::{Cell, UnsafeCell};
use core::ptr;

use dlmalloc::{Allocator, Dlmalloc};

/// A page of WebAssembly's.
const PAGE_BYTES: usize = 65_536;

/// What the first allocations are served from.
const FIRST_BYTES: usize = PAGE_BYTES;

#[global_allocator]
static HEAP: Heap = Heap(UnsafeCell::new(Dlmalloc::new_with_allocator(Pages { first: Cell::new(true) })));

static FIRST: First = First(UnsafeCell::new([0; FIRST_BYTES]));

#[repr(align(16))]
struct First(UnsafeCell<[u8; FIRST_BYTES]>);

// Safety: there are no threads.
unsafe impl Sync for First {}

struct Heap(UnsafeCell<Dlmalloc<Pages>>);

// Safety: there are no threads.
unsafe impl Sync for Heap {}

// Safety: `Dlmalloc` keeps to the contract, and none of its functions calls another one of the allocator's.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        unsafe { (*self.0.get()).malloc(layout.size(), layout.align()) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        unsafe { (*self.0.get()).calloc(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        unsafe { (*self.0.get()).free(start, layout.size(), layout.align()) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        unsafe { (*self.0.get()).realloc(start, layout.size(), layout.align(), size) }
    }
}

/// Where the allocator gets its memory.
struct Pages {
    /// Whether the memory that is there from the start is still to be had.
    first: Cell<bool>,
}

// Safety: each part of the memory is given out once, and is zero then.
unsafe impl Allocator for Pages {
    fn alloc(&self, size: usize) -> (*mut u8, usize, u32) {
        if size <= FIRST_BYTES && self.first.replace(false) {
            return (FIRST.0.get().cast(), FIRST_BYTES, 0);
        }
        let pages = size.div_ceil(PAGE_BYTES);
        let before = wasm32::memory_grow::<0>(pages);
        // The last page is not given out: a pointer to its end would be one to the beginning of the memory.
        if before == usize::MAX || before + pages > usize::MAX / PAGE_BYTES {
            return (ptr::null_mut(), 0, 0);
        }
        (ptr::without_provenance_mut(before * PAGE_BYTES), pages * PAGE_BYTES, 0)
    }

    fn remap(&self, _: *mut u8, _: usize, _: usize, _: bool) -> *mut u8 {
        ptr::null_mut()
    }

    fn free_part(&self, _: *mut u8, _: usize, _: usize) -> bool {
        false
    }

    fn free(&self, _: *mut u8, _: usize) -> bool {
        false
    }

    fn can_release_part(&self, _: u32) -> bool {
        false
    }

    fn allocates_zeros(&self) -> bool {
        true
    }

    fn page_size(&self) -> usize {
        PAGE_BYTES
    }
}
