//! Any bytes as what nf_tables says.

use netlink::Messages;

use crate::{
    forward,
    key::{parse_element, put_data, put_key, put_key_end},
    leftovers,
    observed::{is_ours, parse_chain, parse_elements, parse_generation, parse_rule, parse_set, parse_table},
    socket::Replies,
    spec::SetId,
};

/// Reads a datagram as dumps, notifications and the answer to a transaction; returns whether any of it was
/// understood.
pub fn messages(datagram: &[u8]) -> bool {
    let (mut understood, mut replies) = (false, Replies::default());
    for message in Messages::new(datagram) {
        understood |= is_ours(&message) | parse_table(&message).is_some() | parse_chain(&message).is_some();
        understood |= parse_rule(&message).is_some() | parse_set(&message).is_some();
        understood |= parse_generation(&message).is_some() | message.reply().is_some();
        let _found = (leftovers::parse_chain(&message), leftovers::parse_target(&message));
        let _judged = (forward::parse_dropping_chain(&message), forward::parse_rule(&message));
        for id in SetId::all() {
            for element in parse_elements(id, &message) {
                let (mut key, mut end, mut data) = (Vec::new(), Vec::new(), Vec::new());
                put_key(&mut key, &element);
                put_key_end(&mut end, &element);
                put_data(&mut data, &element);
                assert_eq!((SetId::of(&element), parse_element(id, &key, &end, &data)), (id, Some(element)));
            }
        }
        replies.take(&message, 1, 3);
    }
    // Whatever came, the transaction has an outcome.
    let _ = replies.outcome();
    understood
}
