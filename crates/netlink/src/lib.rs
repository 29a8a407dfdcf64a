//! Netlink sockets, batches, dumps and notifications.
//!
//! The engine knows no family's payload: callers encode messages through [`MessageBuffer`] and read replies
//! through [`Message`] and [`Attributes`]. It keeps no copy of kernel state, starts no thread and never
//! blocks waiting for a reply: the kernel executes requests inside `send`, which returns when every reply is
//! in the socket's queue.
//!
//! Reading order:
//! - [`RequestSocket`]: one request ([`RequestSocket::request`]), a whole dump ([`RequestSocket::dump`]),
//!   thousands of writes ([`RequestSocket::execute`]);
//! - [`Batch`] and [`Request`], which are sent; [`BatchOutcome`], the result;
//! - [`Subscription`]: notifications of multicast groups;
//! - [`genl`]: names and headers of generic netlink;
//! - [`Error`].
//!
//! The work happens inside `send`, which can take seconds for large batches: use a thread of its own, not one
//! of an async executor.
//!
//! ```no_run
//! use netlink::{Batch, Buffers, Protocol, Request, RequestSocket};
//!
//! # fn main() -> Result<(), netlink::Error> {
//! let mut socket = RequestSocket::open(Protocol::ROUTE, &Buffers::default())?;
//!
//! // Thousands of writes: only failures answer.
//! let mut batch = Batch::new();
//! for metric in 0..20_000u32 {
//!     batch.push(24 /* RTM_NEWROUTE */, 0x600 /* CREATE | EXCL */, |message| {
//!         message.put(&[2, 32, 0, 0, 255, 200, 254, 2, 0, 0, 0, 0]); // struct rtmsg
//!         message.attribute(1 /* RTA_DST */, &[10, 0, 0, 1]);
//!         message.attribute_u32(6 /* RTA_PRIORITY */, metric);
//!     });
//! }
//! let outcome = socket.execute(&mut batch)?;
//! for failure in &outcome.failures {
//!     println!("message {} failed: errno {}, {:?}", failure.index, failure.errno, failure.text);
//! }
//! if outcome.replies_lost {
//!     println!("more may have failed: dump and compare");
//! }
//!
//! // A dump, repeated by the engine if it was interrupted.
//! let request = Request::new(26 /* RTM_GETROUTE */, |message| message.put(&[0; 12]));
//! let tables = socket.dump(&request, |message| message.payload.get(4).copied())?;
//! # let _ = tables;
//! # Ok(())
//! # }
//! ```

mod batch;
mod encode;
mod error;
pub mod genl;
mod request;
mod socket;
mod subscription;
mod wire;

pub use batch::{BatchOutcome, Failure};
pub use encode::{Batch, MessageBuffer, Request};
pub use error::Error;
pub use request::RequestSocket;
pub use socket::{Buffers, Counters, Protocol};
pub use subscription::{Drained, Membership, Subscription};
pub use wire::{Attribute, Attributes, Message, Messages, Reply, flags, kinds};
