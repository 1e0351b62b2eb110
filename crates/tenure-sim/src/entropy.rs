//! Random numbers of the operating system, from a seed.
//!
//! The standard library and others link `getrandom` weakly, so that a program may bring its own: this is ours. Hash maps'
//! keys, tokio's choice among ready branches, and generators that seed themselves all come from here, so that a run
//! repeats. It is in the simulator's program alone, never in its library, and so in nothing that serves anybody.
#![expect(unsafe_code, reason = "the symbol of the C library must be defined as C has it")]

use std::sync::atomic::{AtomicU64, Ordering};

static STATE: AtomicU64 = AtomicU64::new(0);

/// Everything that is drawn from now on follows from `seed`.
pub(crate) fn seed(seed: u64) {
    STATE.store(seed, Ordering::SeqCst);
}

/// Fills a buffer, as the system call of that name does.
///
/// # Safety
///
/// `buffer` must point to `length` bytes that may be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: the caller owns so many bytes there.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&next().to_le_bytes()[..chunk.len()]);
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}

/// The generator known as SplitMix64.
fn next() -> u64 {
    let mut number = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst).wrapping_add(0x9e37_79b9_7f4a_7c15);
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
