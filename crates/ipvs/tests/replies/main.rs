//! Results of the parsers on the kernel's replies: on captured ones, on those encoded here, and on rubbish.
#![cfg(target_endian = "little")]

mod captured;
mod captures;
mod properties;
