//! Properties of encoder and parser.

use netlink::{Attribute, Attributes, Batch, Message, Messages, Request, flags};
use proptest::{collection::vec, prelude::*};

fn touch_attributes(attributes: Attributes<'_>, depth: u8) {
    for a in attributes {
        let _ = (a.u8(), a.u16(), a.u16_be(), a.u32(), a.u32_be(), a.u64(), a.string());
        if depth > 0 {
            touch_attributes(a.nested(), depth - 1);
        }
    }
}

fn touch(message: &Message<'_>) {
    let _ = message.reply();
    for header in [0, 1, 4, 12, usize::MAX] {
        touch_attributes(message.attributes(header), 2);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in vec(any::<u8>(), 0..512)) {
        for message in Messages::new(&bytes) {
            touch(&message);
        }
        touch_attributes(Attributes::new(&bytes), 3);
    }

    #[test]
    fn any_payload_of_an_error_reply_is_read_without_panic(
        flags in any::<u16>(), kind in 2u16..4, payload in vec(any::<u8>(), 0..64),
    ) {
        touch(&Message { kind, flags, sequence: 1, port_id: 0, payload: &payload });
    }

    #[test]
    fn what_is_encoded_is_read_back(
        kind in 16u16.., attributes in vec((0u16..0x4000, vec(any::<u8>(), 0..40)), 0..8),
    ) {
        let request = Request::new(kind, |message| {
            message.put(&[1, 2, 3]);
            message.nested(9, |nest| {
                for (kind, value) in &attributes {
                    nest.attribute(*kind, value);
                }
            });
        });
        let messages: Vec<_> = Messages::new(request.as_bytes()).collect();
        prop_assert_eq!(messages.len(), 1);
        prop_assert_eq!((messages[0].kind, messages[0].flags), (kind, flags::REQUEST));
        let nest = messages[0].attributes(3).next().unwrap();
        prop_assert_eq!(nest.kind, 9);
        let read: Vec<_> = nest.nested().map(|a| (a.kind, a.payload.to_vec())).collect();
        prop_assert_eq!(read, attributes);
    }

    #[test]
    fn batches_are_their_messages(sizes in vec(0usize..50, 0..20)) {
        let mut batch = Batch::new();
        for size in &sizes {
            batch.push(20, flags::CREATE | flags::ACK, |message| message.put(&vec![7; *size]));
        }
        let read: Vec<_> = Messages::new(batch.as_bytes()).collect();
        prop_assert_eq!(read.len(), sizes.len());
        for (message, size) in read.iter().zip(&sizes) {
            prop_assert_eq!(message.flags, flags::REQUEST | flags::CREATE);
            prop_assert_eq!(message.payload.len(), *size + (4 - *size % 4) % 4);
        }
    }
}

#[test]
fn exact_bytes_of_every_kind_of_attribute() {
    let request = Request::new(0x1234, |message| {
        message.put(&[0xaa, 0xbb, 0xcc, 0xdd]);
        message.attribute_u8(1, 0x11);
        message.attribute_u16(2, 0x2233);
        message.attribute_u16_be(3, 0x2233);
        message.attribute_u32(4, 0x4455_6677);
        message.attribute_u32_be(5, 0x4455_6677);
        message.attribute_str(7, "ab");
        message.nested(8, |nest| nest.attribute(1, &[]));
    });
    let number = |n: u16| n.to_ne_bytes();
    let mut expected = Vec::new();
    expected.extend_from_slice(&76u32.to_ne_bytes());
    expected.extend_from_slice(&number(0x1234));
    expected.extend_from_slice(&number(1)); // NLM_F_REQUEST
    expected.extend_from_slice(&[0; 8]);
    expected.extend_from_slice(&[0xaa, 0xbb, 0xcc, 0xdd]);
    let mut attribute = |kind: u16, payload: &[u8]| {
        expected.extend_from_slice(&number(4 + payload.len() as u16));
        expected.extend_from_slice(&number(kind));
        expected.extend_from_slice(payload);
        expected.resize(expected.len().next_multiple_of(4), 0);
    };
    attribute(1, &[0x11]);
    attribute(2, &0x2233u16.to_ne_bytes());
    attribute(3, &[0x22, 0x33]);
    attribute(4, &0x4455_6677u32.to_ne_bytes());
    attribute(5, &[0x44, 0x55, 0x66, 0x77]);
    attribute(7, b"ab\0");
    attribute(0x8008, &[number(4), number(1)].concat());
    assert_eq!(request.as_bytes(), expected);
}

#[test]
fn error_replies_with_and_without_the_request_copied() {
    let text = |payload: &mut Vec<u8>| payload.extend_from_slice(&[9, 0, 1, 0, b'o', b'o', b'p', b's', 0]);
    let mut capped = (-19i32).to_ne_bytes().to_vec();
    capped.extend_from_slice(&[0; 16]);
    let mut whole = (-19i32).to_ne_bytes().to_vec();
    whole.extend_from_slice(&24u32.to_ne_bytes());
    whole.extend_from_slice(&[0; 20]);
    text(&mut capped);
    text(&mut whole);
    let reply =
        |flags, payload: &[u8]| Message { kind: 2, flags, sequence: 0, port_id: 0, payload }.reply().unwrap();
    for (flags, payload) in [(0x300, &capped), (0x200, &whole)] {
        let reply = reply(flags, payload);
        assert_eq!((reply.errno, reply.text.as_deref()), (19, Some("oops")));
    }
    assert_eq!(reply(0x100, &capped).text, None);
}

#[test]
fn a_cut_off_attribute_ends_the_list() {
    let whole = Attribute { kind: 1, payload: &[5, 6, 7, 8] };
    let bytes = [8, 0, 1, 0, 5, 6, 7, 8, 9, 0, 2, 0, 1];
    if cfg!(target_endian = "little") {
        assert_eq!(Attributes::new(&bytes).collect::<Vec<_>>(), [whole]);
    }
}
