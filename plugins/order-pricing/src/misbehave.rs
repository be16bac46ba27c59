//! The two ways in which the demo misbehaves. Neither returns: the host ends them.
//! They are not inlined, so that a backtrace names them.

use std::hint::black_box;

/// Never ends.
#[inline(never)]
pub(crate) fn forever() -> ! {
    loop {
        black_box(());
    }
}

/// Takes memory, one mebibyte after the other, until it gets no more.
#[inline(never)]
pub(crate) fn without_bound() -> ! {
    let mut taken = Vec::new();
    loop {
        taken.push(black_box(vec![1_u8; 1024 * 1024]));
    }
}
