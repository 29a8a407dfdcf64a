//! Which kernel parameters are written.

use lb_types::{Leaves, SysctlNeed, SysctlOp};

/// Whether a parameter must be written, given its value.
pub fn must_write(need: &SysctlNeed, current: u32) -> bool {
    let larger = current >= need.op.value;
    let stays = match need.leaves {
        Leaves::Nothing => current == need.op.value,
        Leaves::Larger => larger,
        Leaves::LargerOrZero => larger || current == 0,
        Leaves::LargerBut(default) => larger && current != default,
    };
    !stays
}

/// Parameter that says whether an interface takes router advertisements.
pub fn accept_ra(link: &str) -> String {
    format!("net/ipv6/conf/{link}/accept_ra")
}

/// The write that keeps the routes that an interface has by router advertisements when forwarding is switched on, given
/// the value of [`accept_ra`] there. With 1 the kernel drops them and takes no others (`rt6_purge_dflt_routers` in
/// net/ipv6/route.c, `ipv6_accept_ra` in include/net/addrconf.h); 0 means that they are not the kernel's.
pub fn keep_advertised(link: &str, current: u32) -> Option<SysctlOp> {
    (current == 1).then(|| SysctlOp { name: accept_ra(link).into(), value: 2 })
}

#[cfg(test)]
mod tests {
    use lb_types::SysctlWhen;

    use super::*;

    #[test]
    fn what_somebody_raised_is_never_lowered() {
        use Leaves::{Larger, LargerBut, LargerOrZero, Nothing};
        for (leaves, current, expect) in [
            (Nothing, 100, false),
            (Nothing, 99, true),
            (Nothing, 101, true),
            (Larger, 0, true),
            (Larger, 99, true),
            (Larger, 100, false),
            (Larger, 5000, false),
            (LargerOrZero, 0, false),
            (LargerOrZero, 99, true),
            (LargerOrZero, 101, false),
            (LargerBut(400), 400, true),
            (LargerBut(400), 99, true),
            (LargerBut(400), 100, false),
            (LargerBut(400), 399, false),
            (LargerBut(400), 401, false),
        ] {
            let need = SysctlNeed { op: SysctlOp::new("net/x", 100), leaves, when: SysctlWhen::Always };
            assert_eq!(must_write(&need, current), expect, "{leaves:?} {current}");
        }
    }

    #[test]
    fn only_interfaces_that_would_lose_their_routes_are_written() {
        let write = |current| keep_advertised("eth0.100", current).map(|op| op.to_string());
        assert_eq!(write(1).as_deref(), Some("set sysctl net/ipv6/conf/eth0.100/accept_ra = 2"));
        assert_eq!((write(0), write(2)), (None, None));
    }
}
