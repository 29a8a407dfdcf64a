//! Reasons for which a drain begins, and ways in which it ends.

use std::time::Duration;

use crate::words::words;

/// Absence of an address after which its connections are given up: programs that configure the network take addresses
/// away and put them back.
const ABSENCE_OF_ADDRESS: Duration = Duration::from_secs(10);

words! {
    /// Reason for which a drain began.
    Cause {
        /// The endpoint is terminating.
        Terminating = "terminating",
        /// The endpoint is listed but not ready.
        NotServing = "not-serving",
        /// The endpoint is ready, but topology or a traffic policy does not choose it any more. Its pod is
        /// healthy and stays, so its connections may too: no deadline, no silence.
        NotChosen = "not-chosen",
        /// The endpoint left the EndpointSlices without having been seen terminating: its pod may live.
        LeftSlices = "left-slices",
        /// The Service, its port or its VIP is gone.
        ServiceGone = "service-gone",
        /// The virtual server is at an address that is no longer the node's. Its connections are not here any more,
        /// unless the address comes back at once: the deadline is short.
        AddressLeft = "address-left",
        /// Its address belongs to another pod now.
        AddressReused = "address-reused",
    }
    /// A cause that does not exist.
    UnknownCause = "unknown cause of a drain {0:?}"
}

impl Cause {
    /// Tells whether this takes the place of an earlier cause: a pod that terminates does not come
    /// back, whatever its conditions or slices say later.
    pub fn supersedes(self, earlier: Cause) -> bool {
        let is_final = matches!(earlier, Cause::Terminating | Cause::AddressReused);
        self != earlier && (!is_final || matches!(self, Cause::ServiceGone | Cause::AddressLeft))
    }

    /// Longest time that a drain for this cause may take, whatever its settings are.
    pub(crate) const fn longest(self) -> Option<Duration> {
        match self {
            Cause::AddressLeft => Some(ABSENCE_OF_ADDRESS),
            _ => None,
        }
    }

    /// Tells whether connections may last as long as they like.
    pub(crate) const fn is_patient(self) -> bool {
        matches!(self, Cause::NotChosen)
    }
}

words! {
    /// Way in which a drain ended, or must end.
    Outcome {
        /// Its connections ended.
        Drained = "drained",
        /// The policy is `Immediate`, or the protocol has no connections that could end.
        Immediate = "immediate",
        /// Its pod is deleted.
        EndpointGone = "endpoint-gone",
        /// The deadline passed.
        TimedOut = "timed-out",
        /// Clients sent, and nothing came back.
        Silent = "silent",
        /// Its address belongs to another pod now.
        AddressReused = "address-reused",
        /// The endpoint serves again.
        Returned = "returned",
        /// Somebody else removed the real server.
        Vanished = "vanished",
        /// Its virtual server was removed: the VIP is an address of the node now, or all is cleaned up.
        VirtualServerGone = "virtual-server-gone",
    }
    /// An outcome that does not exist.
    UnknownOutcome = "unknown outcome of a drain {0:?}"
}

impl Outcome {
    /// Tells whether connections that were still open were cut by it.
    pub const fn cuts(self) -> bool {
        !matches!(self, Outcome::Drained | Outcome::Returned | Outcome::Vanished)
    }
}
