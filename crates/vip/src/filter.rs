//! A packet filter that spares us the route notifications of others.
//!
//! A router daemon may change 100,000 routes a second, and we may write 20,000 ourselves; none of that may
//! fill our buffer or wake us. The filter runs when the kernel puts a notification into the buffer
//! (`do_one_broadcast` in net/netlink/af_netlink.c); [`crate::interest`] looks at what passes.

use netlink::Subscription;
use socket2::{SockFilter, SockRef};

use crate::{
    ROUTE_PROTOCOL, VipError,
    dump::{DELETE_ROUTE, NEW_ROUTE},
    encode::TABLE_LOCAL,
};

const BPF_LD_W_ABS: u16 = 0x20;
const BPF_LD_H_ABS: u16 = 0x28;
const BPF_LD_B_ABS: u16 = 0x30;
const BPF_JEQ_K: u16 = 0x15;
const BPF_JSET_K: u16 = 0x45;
const BPF_RET_K: u16 = 0x06;

/// Offsets from the start of `struct nlmsghdr`.
const TYPE: u32 = 4;
const FLAGS: u32 = 6;
const PORT: u32 = 12;
const ROUTE_TABLE: u32 = 16 + 4;
const ROUTE_PROTOCOL_AT: u32 = 16 + 5;

const REPLACE: u16 = netlink::flags::REPLACE;

/// One instruction (`struct sock_filter`); jumps count from the next one.
#[derive(Clone, Copy)]
struct Instruction {
    code: u16,
    /// Jump if true.
    jt: u8,
    /// Jump if false.
    jf: u8,
    /// Operand.
    k: u32,
}

const fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// Program that passes everything but routes; routes with our protocol that another port has changed; and
/// routes that replace another one of table local, which may have been ours.
fn program(own_port: u32) -> Vec<Instruction> {
    // The filter loads more than a byte in network order; netlink is in host order.
    let half = |value: u16| u32::from(u16::from_be_bytes(value.to_ne_bytes()));
    let word = |value: u32| u32::from_be_bytes(value.to_ne_bytes());
    vec![
        /*  0 */ instruction(BPF_LD_H_ABS, 0, 0, TYPE),
        /*  1 */ instruction(BPF_JEQ_K, 1, 0, half(NEW_ROUTE)),
        /*  2 */ instruction(BPF_JEQ_K, 0, 8, half(DELETE_ROUTE)),
        /*  3 */ instruction(BPF_LD_W_ABS, 0, 0, PORT),
        /*  4 */ instruction(BPF_JEQ_K, 7, 0, word(own_port)),
        /*  5 */ instruction(BPF_LD_B_ABS, 0, 0, ROUTE_PROTOCOL_AT),
        /*  6 */ instruction(BPF_JEQ_K, 4, 0, u32::from(ROUTE_PROTOCOL)),
        /*  7 */ instruction(BPF_LD_B_ABS, 0, 0, ROUTE_TABLE),
        /*  8 */ instruction(BPF_JEQ_K, 0, 3, u32::from(TABLE_LOCAL)),
        /*  9 */ instruction(BPF_LD_H_ABS, 0, 0, FLAGS),
        /* 10 */ instruction(BPF_JSET_K, 0, 1, half(REPLACE)),
        /* 11 */ instruction(BPF_RET_K, 0, 0, u32::MAX),
        /* 12 */ instruction(BPF_RET_K, 0, 0, 0),
    ]
}

/// Attaches the filter; without it everything still works, at the cost of looking at every route
/// notification.
pub(crate) fn attach(subscription: &Subscription, own_port: u32) -> Result<(), VipError> {
    let filter: Vec<SockFilter> =
        program(own_port).into_iter().map(|i| SockFilter::new(i.code, i.jt, i.jf, i.k)).collect();
    Ok(SockRef::from(subscription).attach_filter(&filter)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 4711;

    /// Result that the kernel's interpreter would return.
    fn run(program: &[Instruction], packet: &[u8]) -> u32 {
        let (mut at, mut accumulator) = (0usize, 0u32);
        let byte = |i: u32| u32::from(packet[i as usize]);
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { jt } else { jf });
            match code {
                BPF_LD_B_ABS => accumulator = byte(k),
                BPF_LD_H_ABS => accumulator = byte(k) << 8 | byte(k + 1),
                BPF_LD_W_ABS => {
                    accumulator = (0..4).fold(0, |value, offset| value << 8 | byte(k + offset));
                }
                BPF_JEQ_K => at += jump(accumulator == k),
                BPF_JSET_K => at += jump(accumulator & k != 0),
                BPF_RET_K => return k,
                _ => panic!("instruction {code:#x}"),
            }
        }
    }

    fn passes(kind: u16, flags: u16, port: u32, table: u8, protocol: u8) -> bool {
        let header = [&28u32.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes()].concat();
        let ports = [[0; 4], port.to_ne_bytes()].concat();
        let route = vec![2, 32, 0, 0, table, protocol, 254, 2, 0, 0, 0, 0];
        run(&program(OWN), &[header, ports, route].concat()) != 0
    }

    #[test]
    fn only_what_concerns_us_passes() {
        let cases = [
            ("our route deleted by somebody", passes(DELETE_ROUTE, 0, 99, 255, 177), true),
            ("our route deleted by the kernel", passes(DELETE_ROUTE, 0, 0, 255, 177), true),
            ("a route like ours made by somebody", passes(NEW_ROUTE, 0x600, 99, 255, 177), true),
            ("ours replaced by somebody", passes(NEW_ROUTE, 0x100, 99, 255, 4), true),
            ("our own write", passes(NEW_ROUTE, 0x600, OWN, 255, 177), false),
            ("our own replacement", passes(NEW_ROUTE, 0x500, OWN, 255, 177), false),
            ("a daemon's route", passes(NEW_ROUTE, 0x500, 99, 254, 12), false),
            ("a daemon's route goes", passes(DELETE_ROUTE, 0, 99, 254, 12), false),
            ("a local route of an address", passes(NEW_ROUTE, 0x600, 0, 255, 2), false),
            ("a link", passes(16, 0, 0, 0, 0), true),
            ("an address", passes(21, 0, OWN, 255, 177), true),
        ];
        for (what, got, expect) in cases {
            assert_eq!(got, expect, "{what}");
        }
    }

    #[test]
    fn jumps_end_inside() {
        let program = program(OWN);
        for (at, Instruction { code, jt, jf, .. }) in program.iter().enumerate() {
            assert!(at + 1 + usize::from(*jt.max(jf)) < program.len() || *code == BPF_RET_K, "{at}");
        }
    }
}
