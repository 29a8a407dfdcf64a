//! Settings of the C library's allocator, which decide how much memory the process holds.
//!
//! glibc keeps what is freed, and gives every thread an arena of its own to keep it in: after a large list of
//! objects was read, most of the process would be memory that nobody uses. Other allocators give it back by
//! themselves: the static program for musl has jemalloc.
#![cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "calls of the C library that have no safe wrapper")
)]

/// Bytes by which the heap grows at once. A page costs nothing before it is touched, a call to the kernel
/// does.
#[cfg(target_env = "gnu")]
const HEAP_GROWTH_BYTES: libc::c_int = 1 << 20;
/// Bytes that may lie unused at the top of the heap until [`give_memory_back`]: one step of the loop takes
/// about 4 MiB and frees them again.
#[cfg(target_env = "gnu")]
const UNUSED_TOP_BYTES: libc::c_int = 8 << 20;
/// Size in bytes from which on an allocation gets a mapping of its own, whose pages are new each time: more
/// than any list of the loop, which makes one after the other.
#[cfg(target_env = "gnu")]
const MAPPED_FROM_BYTES: libc::c_int = 4 << 20;

/// Makes all threads share one arena; call it before the first of them starts.
///
/// Only one thread allocates much at any time: the source while it reads, the loop while it plans.
pub fn share_one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes two numbers; not concurrent with any other use of mallopt.
    let _refused = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Makes the heap grow in large steps and keeps it; call it before the first thread starts.
///
/// While 10,000 Services are programmed, this saves five of six `brk` calls and a quarter of all page faults.
pub fn keep_heap() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_TOP_PAD, HEAP_GROWTH_BYTES),
        (libc::M_TRIM_THRESHOLD, UNUSED_TOP_BYTES),
        (libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES),
    ] {
        // SAFETY: takes two numbers; not concurrent with any other use of mallopt.
        let _refused = unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gives unused memory back to the kernel; takes some milliseconds.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number, locks the arenas by itself, and touches only memory that nobody uses.
    let _nothing_to_give = unsafe { libc::malloc_trim(0) };
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    fn resident_pages() -> Option<usize> {
        let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
        statm.split(' ').nth(1)?.parse().ok()
    }

    #[test]
    fn freed_memory_is_given_back() {
        share_one_arena();
        keep_heap();
        // Small pieces with one that stays on top keep the allocator from giving anything back by itself.
        let mut pieces: Vec<Box<[u8]>> = (0..500_000).map(|_| vec![1; 100].into()).collect();
        let top = pieces.pop();
        drop(pieces);
        let before = resident_pages();
        give_memory_back();
        let after = resident_pages();
        assert!(after.map(|pages| pages + 8_000) < before, "{before:?} pages before, {after:?} after");
        drop(top);
    }
}
