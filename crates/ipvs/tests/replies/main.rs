//! What the parsers make of the kernel's replies: those captured, those encoded here, and rubbish.
#![cfg(target_endian = "little")]

mod captured;
mod captures;
mod properties;
