//! Making and removing the link, through rtnetlink.
//!
//! rtnetlink is asynchronous and everything else here is not, so each operation gets a thread with a runtime
//! of its own: a node makes and removes links a few times in its life. The thread inherits the network
//! namespace of its creator, and a caller inside another runtime is no problem.

use netlink_packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute};
use rtnetlink::{Error, Handle, LinkMessageBuilder, LinkUnspec};

use crate::{LINK_NAME, VipError};

/// Creates the link, which is down at first.
pub(crate) fn create(kind: &str) -> Result<(), VipError> {
    let message = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(kind.into()).name(LINK_NAME).build();
    with_rtnetlink(async |handle| handle.link().add(message).execute().await)
}

/// Sets the link up, without an IPv6 link-local address.
pub(crate) fn set_up(index: u32) -> Result<(), VipError> {
    // This takes a message of its own: the kernel sets flags before it looks at the families (do_setlink).
    let no_link_local = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    let quiet = LinkUnspec::new_with_index(index)
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![no_link_local]))
        .build();
    let up = LinkUnspec::new_with_index(index).up().build();
    with_rtnetlink(async |handle| {
        // This fails where the kernel has no IPv6; then the link has no such address either.
        let _ = handle.link().set(quiet).execute().await;
        handle.link().set(up).execute().await
    })
}

/// Removes the link with all that is on it.
pub(crate) fn delete(index: u32) -> Result<(), VipError> {
    with_rtnetlink(async |handle| handle.link().del(index).execute().await)
}

/// Error number with which the kernel refused an operation, if it did.
pub(crate) fn refusal(error: &VipError) -> Option<i32> {
    match error {
        VipError::Rtnetlink(Error::NetlinkError(message)) => Some(message.raw_code().saturating_neg()),
        _ => None,
    }
}

fn with_rtnetlink(call: impl AsyncFnOnce(Handle) -> Result<(), Error> + Send) -> Result<(), VipError> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(async {
            let (connection, handle, _notifications) = rtnetlink::new_connection()?;
            tokio::spawn(connection);
            call(handle).await.map_err(VipError::Rtnetlink)
        })
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("rtnetlink".to_owned()).spawn_scoped(scope, run)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
