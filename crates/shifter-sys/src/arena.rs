//! Memory for a program that lives for a millisecond: handed out in order from one static block, never given
//! back. The C library's allocator would map and unmap pages two dozen times in that millisecond, a tenth of a
//! container's start. What no longer fits goes to that allocator, so that memory stays bounded by what is in use
//! and one block.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const SIZE: usize = 256 << 10;

/// The block, aligned to pages, and how much of it is handed out.
#[repr(align(4096))]
struct Arena(UnsafeCell<[u8; SIZE]>, AtomicUsize);

#[global_allocator]
static ARENA: Arena = Arena(UnsafeCell::new([0; SIZE]), AtomicUsize::new(0));

// SAFETY: the block is only reached through pointers to parts that the counter hands out once each.
unsafe impl Sync for Arena {}

// SAFETY: parts lie within the block, aligned (it is by 4096) and disjoint, since the counter only grows.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let start = |used: usize| used.next_multiple_of(layout.align());
        let end =
            |used| Some(start(used) + layout.size()).filter(|end| *end <= SIZE && layout.align() <= 4096);
        match self.1.fetch_update(Relaxed, Relaxed, end) {
            // SAFETY: start and end lie within the block.
            Ok(used) => unsafe { self.0.get().cast::<u8>().add(start(used)) },
            // SAFETY: passed on as it came.
            Err(_) => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        let block = self.0.get() as usize;
        if !(block..block + SIZE).contains(&(place as usize)) {
            // SAFETY: not of the block, so it came from there.
            unsafe { System.dealloc(place, layout) }
        }
    }
}
