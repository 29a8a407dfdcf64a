//! The STATS and STATS64 nests (`ip_vs_genl_fill_stats`).

use netlink::{Attribute, Attributes};

use super::uapi::stats;

/// Counters and rates of a service or destination, refreshed by the kernel every 2 s.
///
/// They come from STATS64 where the kernel sends it (4.1 and later), else from STATS, whose numbers wrap at
/// 32 bits except the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// New connections per second.
    pub connection_rate: u64,
    /// Packets from clients per second.
    pub packet_rate_in: u64,
    /// Packets to clients per second.
    pub packet_rate_out: u64,
    /// Bytes from clients per second.
    pub byte_rate_in: u64,
    /// Bytes to clients per second.
    pub byte_rate_out: u64,
}

impl Stats {
    /// Statistics of a service or destination that has just been created.
    pub const ZERO: Stats = Stats {
        connections: 0,
        packets_in: 0,
        packets_out: 0,
        bytes_in: 0,
        bytes_out: 0,
        connection_rate: 0,
        packet_rate_in: 0,
        packet_rate_out: 0,
        byte_rate_in: 0,
        byte_rate_out: 0,
    };

    /// Reads either nest: the length of each number says which of the two it is. Missing numbers are 0.
    pub fn parse(nest: Attributes<'_>) -> Stats {
        let mut parsed = Stats::default();
        for attribute in nest {
            if let Some(field) = parsed.field(attribute.kind) {
                *field = number(&attribute);
            }
        }
        parsed
    }

    fn field(&mut self, kind: u16) -> Option<&mut u64> {
        Some(match kind {
            stats::CONNS => &mut self.connections,
            stats::INPKTS => &mut self.packets_in,
            stats::OUTPKTS => &mut self.packets_out,
            stats::INBYTES => &mut self.bytes_in,
            stats::OUTBYTES => &mut self.bytes_out,
            stats::CPS => &mut self.connection_rate,
            stats::INPPS => &mut self.packet_rate_in,
            stats::OUTPPS => &mut self.packet_rate_out,
            stats::INBPS => &mut self.byte_rate_in,
            stats::OUTBPS => &mut self.byte_rate_out,
            _ => return None,
        })
    }
}

fn number(attribute: &Attribute<'_>) -> u64 {
    attribute.u64().or(attribute.u32().map(u64::from)).unwrap_or(0)
}
