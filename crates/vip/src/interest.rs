//! Judgement on notifications: the kernel may no longer hold what we saw or wrote.

use std::{collections::HashSet, net::IpAddr};

use netlink::{Message, flags};

use crate::{
    LINK_NAME, ROUTE_PROTOCOL,
    dump::{
        Address, DELETE_ADDRESS, DELETE_LINK, DELETE_ROUTE, DELETE_RULE, Link, NEW_ADDRESS, NEW_LINK,
        NEW_ROUTE, parse_address, parse_link, parse_local_route, parse_rule,
    },
};

/// Judges notifications, one after another, without those of our own socket.
#[derive(Debug, Default)]
pub(crate) struct Interest {
    /// Our link, if it is known to be up. Notifications about links do not tell who caused them, but our own
    /// changes only bring it here.
    up_link: Option<u32>,
    /// Addresses seen so far: the kernel repeats each whenever its lifetime is renewed.
    known: HashSet<Address>,
}

impl Interest {
    /// Notes a link that exists at the start.
    pub(crate) fn note_link(&mut self, link: &Link) {
        if link.name == LINK_NAME && link.up {
            self.up_link = Some(link.index);
        }
    }

    /// Notes an address that exists at the start.
    pub(crate) fn note_address(&mut self, address: Address) {
        self.known.insert(address);
    }

    /// Tells whether somebody has changed our link, one of our routes or rules, or an address of the node.
    pub(crate) fn judge(&mut self, message: &Message<'_>) -> bool {
        match message.kind {
            NEW_LINK | DELETE_LINK => {
                parse_link(message).is_some_and(|link| self.judge_link(&link, message.kind == DELETE_LINK))
            }
            NEW_ADDRESS | DELETE_ADDRESS => {
                parse_address(message).is_some_and(|address| self.judge_address(address, message.kind))
            }
            NEW_ROUTE | DELETE_ROUTE => judge_route(message),
            // A second rule like ours does no harm.
            DELETE_RULE => parse_rule(message).is_some_and(|rule| rule.as_ours().is_some()),
            _ => false,
        }
    }

    fn judge_link(&mut self, link: &Link, deleted: bool) -> bool {
        if deleted {
            self.known.retain(|address| address.link != link.index);
        }
        let was_up = self.up_link == Some(link.index);
        if !deleted && link.name == LINK_NAME && link.up {
            self.up_link = Some(link.index);
            return false;
        }
        // It was deleted, went down, or got another name.
        if was_up {
            self.up_link = None;
        }
        was_up
    }

    fn judge_address(&mut self, address: Address, kind: u16) -> bool {
        if kind == NEW_ADDRESS {
            return !address.is_internal() && self.known.insert(address);
        }
        self.known.remove(&address);
        // Whatever it is, the last IPv4 address of our link takes its IPv4 routes along.
        !address.is_internal() || self.up_link == Some(address.link)
    }
}

/// Counts our routes, and those that replace another one, which may have been ours.
fn judge_route(message: &Message<'_>) -> bool {
    let is_vip = |addr: IpAddr| !addr.is_loopback();
    let replaces = message.kind == NEW_ROUTE && message.flags & flags::REPLACE != 0;
    parse_local_route(message)
        .is_some_and(|route| is_vip(route.addr) && (replaces || route.protocol == ROUTE_PROTOCOL))
}

#[cfg(test)]
mod tests;
