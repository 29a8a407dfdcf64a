//! Allocator of the static program: jemalloc.
//!
//! With musl's own the program takes a seventh more instructions than with glibc's; with this one nearly as many, and
//! a little more memory. It is built for one size of pages, which differs on processors other than x86_64.
#![expect(unsafe_code, reason = "jemalloc finds its options by the name of a symbol")]

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static JEMALLOC: Jemalloc = Jemalloc;

/// Options, which end with a zero byte. All threads share one arena, as with glibc: arenas of their own take huge
/// pages for the little that each thread needs, where the kernel gives such pages to all.
// SAFETY: the symbol is a pointer to a text in C, as a reference to bytes is, and nothing else defines it.
#[unsafe(export_name = "_rjem_malloc_conf")]
static OPTIONS: &[u8; 10] = b"narenas:1\0";
