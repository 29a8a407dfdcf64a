//! Choice of the connections that may stay open, so that no client can keep the others from getting answers.
//!
//! Every new connection is accepted. If there is no room, the client with the most connections loses its
//! oldest one, which has been idle for the longest: an answer takes no time once its request has arrived.
//! Pure: no socket, no clock.

use std::{collections::BTreeMap, net::IpAddr};

/// Most connections of one address, more than probes and scrapes ever have at a time.
const MAX_PER_SOURCE: usize = 32;
/// Most connections of all addresses, few enough for the default limit of file descriptors.
pub(crate) const MAX_TOTAL: usize = 256;

/// Open connections, the oldest first; a `T` can end one.
#[derive(Debug)]
pub(crate) struct Connections<T> {
    open: Vec<Open<T>>,
    next_id: u64,
}

#[derive(Debug)]
struct Open<T> {
    id: u64,
    source: IpAddr,
    handle: T,
}

impl<T> Default for Connections<T> {
    fn default() -> Self {
        Connections { open: Vec::new(), next_id: 0 }
    }
}

impl<T> Connections<T> {
    /// Number of the next connection.
    pub(crate) const fn next_id(&self) -> u64 {
        self.next_id
    }

    /// Adds a connection and returns the one that has to make room for it, if any.
    pub(crate) fn add(&mut self, source: IpAddr, handle: T) -> Option<T> {
        // The address of an IPv4 client must be the same, whatever the socket listens on.
        let source = source.to_canonical();
        let of_source = self.open.iter().filter(|open| open.source == source).count();
        let crowded = if of_source >= MAX_PER_SOURCE { Some(source) } else { self.largest_if_full() };
        self.open.push(Open { id: self.next_id, source, handle });
        self.next_id += 1;
        crowded.and_then(|source| self.remove_oldest(source))
    }

    /// Forgets a connection that has ended by itself.
    pub(crate) fn remove(&mut self, id: u64) {
        self.open.retain(|open| open.id != id);
    }

    /// Address with the most connections (among equals, that with the oldest one), if there is no room for
    /// another connection.
    fn largest_if_full(&self) -> Option<IpAddr> {
        let mut counts = BTreeMap::<IpAddr, usize>::new();
        for open in &self.open {
            *counts.entry(open.source).or_default() += 1;
        }
        let most = counts.values().copied().max().filter(|_| self.open.len() >= MAX_TOTAL)?;
        self.open.iter().map(|open| open.source).find(|source| counts[source] == most)
    }

    fn remove_oldest(&mut self, source: IpAddr) -> Option<T> {
        let at = self.open.iter().position(|open| open.source == source)?;
        Some(self.open.remove(at).handle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(n: u8) -> IpAddr {
        [10, 244, 0, n].into()
    }

    #[test]
    fn one_address_ends_its_own_oldest_connections() {
        let mut connections = Connections::default();
        assert_eq!(connections.add(addr(1), 0), None);
        for n in 1..=MAX_PER_SOURCE {
            assert_eq!(connections.add(addr(2), n), None);
        }
        assert_eq!(connections.add(addr(2), 1000), Some(1));
        let mapped: IpAddr = "::ffff:10.244.0.2".parse().unwrap();
        assert_eq!(connections.add(mapped, 1001), Some(2), "the same address");
        connections.remove(3);
        assert_eq!(connections.add(addr(2), 1002), None);
        assert_eq!(connections.add(addr(2), 1003), Some(4));
    }

    #[test]
    fn without_room_the_address_with_the_most_connections_loses_one() {
        let mut connections = Connections::default();
        connections.add(addr(1), 0);
        // Eight addresses with 31 each, one with seven: full.
        for n in 1..MAX_TOTAL {
            let source = if n <= 248 { addr(100 + u8::try_from(n % 8).unwrap()) } else { addr(50) };
            assert_eq!(connections.add(source, n), None, "{n}");
        }
        assert_eq!(connections.add(addr(2), MAX_TOTAL), Some(1), "the oldest of the largest");
        assert_eq!(connections.add(addr(3), MAX_TOTAL + 1), Some(2), "of another that has the most now");
        assert_eq!(connections.open.len(), MAX_TOTAL);
        assert!(connections.open.iter().any(|open| open.handle == 0), "the oldest of all has done no harm");
    }

    #[test]
    fn among_many_addresses_with_one_connection_each_the_oldest_goes() {
        let mut connections = Connections::default();
        for n in 0..1000_u16 {
            let [high, low] = n.to_be_bytes();
            let ended = connections.add([10, 1, high, low].into(), usize::from(n));
            assert_eq!(ended, usize::from(n).checked_sub(MAX_TOTAL));
        }
    }
}
