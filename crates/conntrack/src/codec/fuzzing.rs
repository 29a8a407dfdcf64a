//! Any bytes, read as a dump of conntrack.

use netlink::Messages;

use super::{Batch, HEADER, IpFamily, Key, Protocol, attr, ip, parse_end, parse_tracked, proto, push_delete};

/// Reads a datagram, and names each tracked connection in it for deletion; tells whether it made sense.
pub fn entries(datagram: &[u8]) -> bool {
    let mut understood = false;
    for message in Messages::new(datagram) {
        let find = |kind| message.attributes(HEADER).find(|a| a.kind == kind);
        let ends = |orig, reply| {
            let (to, number) = parse_end(&orig, [ip::V4_DST, ip::V6_DST], proto::DST_PORT)?;
            let (answers_from, _) = parse_end(&reply, [ip::V4_SRC, ip::V6_SRC], proto::SRC_PORT)?;
            Some((Protocol::from_number(number)?, Key { to, answers_from }))
        };
        let tuples = find(attr::TUPLE_ORIG).zip(find(attr::TUPLE_REPLY));
        let Some((protocol, key)) = tuples.and_then(|(orig, reply)| ends(orig, reply)) else {
            understood |= message.reply().is_some();
            continue;
        };
        assert_eq!(parse_tracked(&message, protocol, &[].into()), None, "nothing is wanted");
        if let Some(tracked) = parse_tracked(&message, protocol, &[key].into()) {
            understood = true;
            let mut batch = Batch::new();
            push_delete(&mut batch, IpFamily::V4, &tracked);
            let deletion = Messages::new(batch.as_bytes()).next().expect("one message");
            let tuple = deletion.attributes(HEADER).find(|a| a.kind == attr::TUPLE_ORIG);
            assert_eq!(
                tuple.map(|a| a.payload),
                Some(&tracked.tuple[..]),
                "a deletion without its tuple is a flush"
            );
        }
    }
    understood
}
