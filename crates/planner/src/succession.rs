//! Rules of succession: the fate of a real server's connections when pods come and go.
//!
//! Connections belong to a pod, IPVS knows only its address and port. A pod's address is free once its pod is
//! deleted, and may come back under another pod at once; the pods of a node's network share one address and
//! come and go on their ports. So a connection is cut for certain reasons only, each once.
//!
//! | the pod whose connections they are | an endpoint there | verdict |
//! | --- | --- | --- |
//! | is listed by some slice | any | [`Fate::Keep`]: it lives, or shares the address |
//! | was terminating and has left every slice | none, or on another port | [`Fate::Gone`], or [`Fate::PerhapsGone`] where another slice may list it in a moment |
//! | has left every slice, otherwise | none, or on another port | [`Fate::Keep`]: perhaps its label changed |
//! | has left every slice | another pod at the same address and port | [`Fate::HandedOver`] |
//! | the same, but that pod served there beside it | serves | [`Fate::Keep`]: connections of both mix there |

use drain::EndpointGone;
use lb_types::{PodUid, Protocol, RealServerId};
use service_model::Listings;

/// Fate of the connections of a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They continue, as the policy of the drain has it.
    Keep,
    /// Their pod is deleted.
    Gone,
    /// The same, unless another slice lists the pod in a moment.
    PerhapsGone,
    /// Their address and port belong to another pod.
    HandedOver,
}

/// Other pods at the address of a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Successor {
    /// No other pod is listed.
    None,
    /// Pods on other ports only.
    OtherPort,
    /// A pod on the same port that was listed before.
    SamePort,
    /// A pod on the same port that is new.
    Newcomer,
}

/// Knowledge about a pod that has lost a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Situation {
    /// True if some slice still lists the pod at the address.
    pub listed: bool,
    /// True if it was terminating when it left a slice.
    pub ended: bool,
    /// True if another slice may list it in a moment.
    pub may_move: bool,
    /// True if the real server takes connections again, for another pod.
    pub serves: bool,
    /// Other pods there.
    pub successor: Successor,
    /// Configured treatment of a pod's end.
    pub endpoint_gone: EndpointGone,
}

impl Situation {
    /// Situation of a pod that has lost a real server, as far as slices tell, and by default besides.
    pub fn of(pod: Option<PodUid>, rs: &RealServerId, protocol: Protocol, listings: &Listings) -> Self {
        let listed = listings.lists(rs, protocol, pod);
        let departure = listings.departure(rs.addr, pod);
        let ended = departure.is_some_and(|departure| departure.ended);
        let may_move = departure.is_some_and(|departure| departure.may_move);
        // A pod that is still listed has no successor, and nobody can succeed an unknown one.
        let others = pod.filter(|_| !listed).into_iter().flat_map(|pod| listings.others(rs.addr, pod));
        let successor = others.map(|other| {
            if !other.is_at(rs, protocol) {
                Successor::OtherPort
            } else if listings.has_arrived(other) {
                Successor::Newcomer
            } else {
                Successor::SamePort
            }
        });
        // Of several pods the one that says most counts: `Successor` is ordered by that.
        let successor = successor.max().unwrap_or(Successor::None);
        Situation {
            listed,
            ended,
            may_move,
            serves: false,
            successor,
            endpoint_gone: EndpointGone::default(),
        }
    }

    /// Verdict of the table at the top of this module.
    pub fn fate(self) -> Fate {
        let is_dead = self.ended && !self.listed;
        let removes = is_dead && self.endpoint_gone == EndpointGone::Remove;
        match self.successor {
            _ if self.listed => Fate::Keep,
            Successor::Newcomer => Fate::HandedOver,
            _ if self.serves => Fate::Keep,
            _ if removes && self.may_move => Fate::PerhapsGone,
            _ if removes => Fate::Gone,
            Successor::SamePort => Fate::HandedOver,
            Successor::OtherPort if is_dead => Fate::HandedOver,
            Successor::OtherPort | Successor::None => Fate::Keep,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        use Successor::{Newcomer, None, OtherPort, SamePort};
        let check = |words: &str, successor: Successor, expect: Fate| {
            let has = |word: &str| words.split(' ').any(|w| w == word);
            let situation = Situation {
                listed: has("listed"),
                ended: has("ended"),
                may_move: has("moves"),
                serves: has("serves"),
                successor,
                endpoint_gone: if has("drain") { EndpointGone::Drain } else { EndpointGone::Remove },
            };
            assert_eq!(situation.fate(), expect, "{situation:?}");
        };
        for successor in [None, OtherPort, SamePort, Newcomer] {
            for words in
                ["listed", "listed ended", "listed serves", "listed ended serves", "listed ended moves"]
            {
                check(words, successor, Fate::Keep);
            }
        }
        for (words, with_none, other_port, same_port, newcomer) in [
            ("", Fate::Keep, Fate::Keep, Fate::HandedOver, Fate::HandedOver),
            ("ended", Fate::Gone, Fate::Gone, Fate::Gone, Fate::HandedOver),
            ("ended moves", Fate::PerhapsGone, Fate::PerhapsGone, Fate::PerhapsGone, Fate::HandedOver),
            ("moves", Fate::Keep, Fate::Keep, Fate::HandedOver, Fate::HandedOver),
            ("ended drain", Fate::Keep, Fate::HandedOver, Fate::HandedOver, Fate::HandedOver),
            ("ended drain moves", Fate::Keep, Fate::HandedOver, Fate::HandedOver, Fate::HandedOver),
            ("serves", Fate::Keep, Fate::Keep, Fate::Keep, Fate::HandedOver),
            ("ended serves", Fate::Keep, Fate::Keep, Fate::Keep, Fate::HandedOver),
        ] {
            check(words, None, with_none);
            check(words, OtherPort, other_port);
            check(words, SamePort, same_port);
            check(words, Newcomer, newcomer);
        }
    }
}
