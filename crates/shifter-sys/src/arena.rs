//! Memory for a program that lives for a millisecond: handed out in order from one static block, of which only the last
//! part grows in its place or is given back. The C library's allocator would map and unmap pages two dozen times in
//! that millisecond, a tenth of a container's start. What no longer fits goes to that allocator, so that memory stays
//! bounded by what is in use and one block.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const SIZE: usize = 256 << 10;
const ALIGN: usize = 16;

/// Aligned no further, so that it begins on a page that the program's other data have anyway: each page costs a fault.
#[repr(align(16))]
struct Arena(UnsafeCell<[u8; SIZE]>);

#[global_allocator]
static ARENA: Arena = Arena(UnsafeCell::new([0; SIZE]));

/// How much of it is handed out. Not zero at first, and so not among the zeros behind the block.
static USED: AtomicUsize = AtomicUsize::new(ALIGN);

// SAFETY: the block is only reached through pointers to parts that the counter hands out once each.
unsafe impl Sync for Arena {}

impl Arena {
    /// Where in the block `place` is; `None` for what the C library handed out.
    fn offset(&self, place: *mut u8) -> Option<usize> {
        (place as usize).checked_sub(self.0.get() as usize).filter(|offset| *offset < SIZE)
    }
}

/// Moves the end of the part that was handed out last; `false` if the one that ends at `old` is not that.
fn move_end(old: usize, new: usize) -> bool {
    new <= SIZE && USED.compare_exchange(old, new, Relaxed, Relaxed).is_ok()
}

// SAFETY: parts lie within the block, aligned (it is by ALIGN) and disjoint: the counter is always the end of the last
// of them, and only that one is changed or had back.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Alignments are powers of two, so this rounds up.
        let start = |used: usize| (used + layout.align() - 1) & !(layout.align() - 1);
        let end =
            |used| Some(start(used) + layout.size()).filter(|end| *end <= SIZE && layout.align() <= ALIGN);
        match USED.fetch_update(Relaxed, Relaxed, end) {
            // SAFETY: start and end lie within the block.
            Ok(used) => unsafe { self.0.get().cast::<u8>().add(start(used)) },
            // SAFETY: passed on as it came.
            Err(_) => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        match self.offset(place) {
            Some(start) => {
                let _only_the_last_is_had_back = move_end(start + layout.size(), start);
            }
            // SAFETY: not of the block, so it came from there.
            None => unsafe { System.dealloc(place, layout) },
        }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some(start) = self.offset(place) else {
            // SAFETY: as above.
            return unsafe { System.realloc(place, layout, size) };
        };
        if move_end(start + layout.size(), start.saturating_add(size)) {
            return place;
        }
        // SAFETY: GlobalAlloc's caller sees to it that the rounded size is no overflow.
        let new_layout = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: the size is not zero, by the same promise.
        let new = unsafe { self.alloc(new_layout) };
        if !new.is_null() {
            // SAFETY: both have room for the smaller size, and the new part is not the old one.
            unsafe { std::ptr::copy_nonoverlapping(place, new, layout.size().min(size)) };
            // SAFETY: the old part came from here with this layout, and nobody uses it any more.
            unsafe { self.dealloc(place, layout) };
        }
        new
    }
}
