//! Atomics: the standard ones, or loom's when the model checker runs.

#[cfg(loom)]
pub(crate) use loom::sync::{
    Arc,
    atomic::{AtomicU64, Ordering, fence},
};
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering, fence},
};

/// A boxed slice of zeroes, or `None` when there is no memory.
#[cfg(not(loom))]
pub(crate) fn zeroed(len: usize) -> Option<Box<[AtomicU64]>> {
    use zerocopy::FromZeros;
    // Zero pages of the allocator: a ring of millions costs nothing before it fills.
    <[AtomicU64]>::new_box_zeroed_with_elems(len).ok()
}

#[cfg(loom)]
pub(crate) fn zeroed(len: usize) -> Option<Box<[AtomicU64]>> {
    Some((0..len).map(|_| AtomicU64::new(0)).collect())
}
