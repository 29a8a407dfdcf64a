//! Exchanges with the generic netlink controller, which every kernel has.

use super::*;
use crate::genl;

const CONTROLLER: u16 = 16;
const GET_FAMILY: u8 = 3;
const NO_COMMAND: u8 = 250;
const FAMILY_NAME: u16 = 2;

fn socket(receive: usize) -> RequestSocket {
    RequestSocket::open(Protocol::GENERIC, &Buffers { send: 1 << 20, receive }).unwrap()
}

/// Queries for a family; where `bad` says so, an unknown command, which gives EOPNOTSUPP.
fn queries(count: usize, bad: impl Fn(usize) -> bool) -> Batch {
    let mut batch = Batch::new();
    for index in 0..count {
        batch.push(CONTROLLER, 0, |message| {
            genl::put_header(message, if bad(index) { NO_COMMAND } else { GET_FAMILY }, 1);
            message.attribute_str(FAMILY_NAME, "nlctrl");
        });
    }
    batch
}

fn all_families() -> Request {
    Request::new(CONTROLLER, |message| genl::put_header(message, GET_FAMILY, 1))
}

#[test]
fn failures_have_the_index_of_their_message() {
    let bad = |index: usize| matches!(index, 0 | 777 | 1999 | 2000 | 2999);
    let mut batch = queries(3000, bad);
    let mut socket = socket(16 << 20);
    for _ in 0..2 {
        let outcome = socket.execute(&mut batch).unwrap();
        let failed: Vec<_> = outcome.failures.iter().map(|f| (f.index, f.errno)).collect();
        assert_eq!(failed, [0, 777, 1999, 2000, 2999].map(|index| (index, libc::EOPNOTSUPP)));
        assert!(!outcome.replies_lost);
    }
    assert!(socket.counters().sends < 20, "{:?}", socket.counters());
}

#[test]
fn a_read_that_ended_is_not_looked_for_again() {
    let mut socket = socket(1 << 20);
    let query = Request::new(CONTROLLER, |message| {
        genl::put_header(message, GET_FAMILY, 1);
        message.attribute_str(FAMILY_NAME, "nlctrl");
    });
    for _ in 0..3 {
        let before = socket.counters();
        assert_eq!(socket.request(&query, |message| Some(message.kind)).unwrap().len(), 1);
        let after = socket.counters();
        let calls = (after.sends - before.sends, after.receives - before.receives);
        assert_eq!(calls, (1, 2), "the answer and its acknowledgement");
    }
}

#[test]
fn small_buffers_mean_small_datagrams_and_no_loss() {
    let mut socket = socket(4 << 10);
    let outcome = socket.execute(&mut queries(500, |_| true)).unwrap();
    assert_eq!(outcome.failures.len(), 500);
    assert!(!outcome.replies_lost);
}

#[test]
fn lost_replies_are_noticed_and_the_socket_stays_usable() {
    let mut socket = socket(4 << 10);
    let too_many = Limits { bytes: 1 << 17, messages: 2000 };
    let outcome = socket.execute_within(&mut queries(500, |_| true), too_many).unwrap();
    assert!(outcome.replies_lost);
    assert!(outcome.failures.len() < 500);
    let outcome = socket.execute(&mut queries(1, |_| false)).unwrap();
    assert_eq!(outcome, BatchOutcome::default());
    assert!(genl::resolve(&mut socket, "nlctrl").is_ok());
}

#[test]
fn a_datagram_larger_than_the_send_buffer_is_split() {
    let mut socket = RequestSocket::open(Protocol::GENERIC, &Buffers { send: 1, receive: 8 << 20 }).unwrap();
    let too_large = Limits { bytes: usize::MAX, messages: usize::MAX };
    let outcome = socket.execute_within(&mut queries(1000, |index| index == 999), too_large).unwrap();
    assert_eq!(outcome.failures.len(), 1);
    assert!(!outcome.replies_lost);
}

#[test]
fn dumps_return_everything() {
    let mut socket = socket(1 << 20);
    let names = socket.dump(&all_families(), |message| {
        let name = message.attributes(genl::HEADER).find(|a| a.kind == FAMILY_NAME)?;
        String::from_utf8(name.string().to_vec()).ok()
    });
    assert!(names.unwrap().contains(&"nlctrl".to_owned()));
}

#[test]
fn a_dump_into_a_small_buffer_is_repeated_with_a_larger_one() {
    let mut socket = socket(1 << 20);
    let whole = socket.dump(&all_families(), |_| Some(())).unwrap().len();
    socket.socket.shrink_receive_buffer(64);
    assert_eq!(socket.dump(&all_families(), |_| Some(())).unwrap().len(), whole);
    assert_eq!(socket.dump(&all_families(), |_| Some(())).unwrap().len(), whole);
}

#[test]
fn an_unfinished_dump_does_not_disturb_the_next_exchange() {
    let mut socket = socket(1 << 20);
    let mut bytes = all_families().bytes;
    add_flags(&mut bytes, flags::DUMP);
    socket.socket.send(&bytes, 1).unwrap();
    assert!(!socket.dump(&all_families(), |_| Some(())).unwrap().is_empty());
}

#[test]
fn the_error_names_an_unknown_family() {
    let error = genl::resolve(&mut socket(1 << 20), "no-such").unwrap_err();
    assert!(error.is_not_found() && error.is_not_supported() && !error.is_retryable());
    assert_eq!(error.to_string(), "the kernel has no generic netlink family \"no-such\"");
}

#[test]
fn refusals_carry_the_error_number() {
    let nonsense = Request::new(CONTROLLER, |message| genl::put_header(message, NO_COMMAND, 1));
    let error = socket(1 << 20).request(&nonsense, |_| Some(())).unwrap_err();
    assert_eq!(error.errno(), Some(libc::EOPNOTSUPP));
    assert!(error.is_not_supported());
}

#[test]
fn malformed_messages_are_not_sent() {
    let mut batch = queries(1, |_| false);
    batch.push(CONTROLLER, 0, |message| message.attribute(1, &[0; 70_000]));
    let error = socket(1 << 20).execute(&mut batch).unwrap_err();
    assert!(matches!(error, Error::Malformed { index: 1 }));
}

/// A message without attributes, as the kernel would send it.
fn received(kind: u16, extra_flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Request::new(kind, |message| message.put(payload)).bytes;
    add_flags(&mut bytes, extra_flags);
    set_sequence(&mut bytes, sequence);
    bytes
}

#[test]
fn a_datagram_belongs_to_its_exchange() {
    let datagram = [
        received(30, 0, 6, &[1]),             // of an earlier exchange
        received(kinds::DONE, 0, 6, &[0; 4]), // its end
        received(kinds::NOOP, 0, 7, &[]),
        received(30, 0, 7, &[2]),
        received(kinds::DONE, 0, 7, &[0; 4]),
        received(30, 0, 7, &[3]), // after the end
    ];
    let mut seen = vec![];
    let read = read_datagram(&datagram.concat(), 7, &mut |m| seen.push(m.payload[0]));
    assert!(matches!(read, Read { end: Some(Ok(())), interrupted: false, messages: 6 }), "{read:?}");
    assert_eq!(seen, [2]);
}

#[test]
fn an_interrupted_dump_is_noticed_in_any_of_its_messages() {
    for at in 0..2 {
        let flags = |n| if n == at { flags::DUMP_INTR } else { 0 };
        let datagram = [received(30, flags(0), 7, &[]), received(kinds::DONE, flags(1), 7, &[0; 4])].concat();
        assert!(read_datagram(&datagram, 7, &mut |_| {}).interrupted);
    }
}

#[test]
fn a_dump_can_end_with_an_error() {
    let errno = (-libc::EBUSY).to_ne_bytes();
    let read = read_datagram(&received(kinds::DONE, 0, 7, &errno), 7, &mut |_| {});
    let error = read.end.unwrap().unwrap_err();
    assert_eq!(error.errno(), Some(libc::EBUSY));
    assert!(error.is_retryable());
}
