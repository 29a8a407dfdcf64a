//! Generic netlink: names of families (net/netlink/genetlink.c) and the header of their messages.

use crate::{Attribute, Error, Message, MessageBuffer, Request, RequestSocket};

/// Family of the controller (`GENL_ID_CTRL`).
const CONTROLLER: u16 = 16;
/// Command `CTRL_CMD_GETFAMILY`.
const GET_FAMILY: u8 = 3;
const ATTR_FAMILY_ID: u16 = 1;
const ATTR_FAMILY_NAME: u16 = 2;
const ATTR_VERSION: u16 = 3;
const ATTR_GROUPS: u16 = 7;
const ATTR_GROUP_NAME: u16 = 1;
const ATTR_GROUP_ID: u16 = 2;

/// Length of `struct genlmsghdr`.
pub const HEADER: usize = 4;

/// A family as the kernel registered it. Its number changes when its module is loaded anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Family {
    /// Type of its messages (`nlmsg_type`).
    pub id: u16,
    /// Version of its interface.
    pub version: u32,
    /// Names and numbers of its multicast groups, for [`crate::Subscription::open`].
    pub groups: Vec<(String, u32)>,
}

/// Asks for a family by name. The kernel may load the module if it declares the alias, as ip_vs does from
/// Linux 5.16 on.
///
/// It fails with [`Error::FamilyNotFound`] if there is none.
pub fn resolve(socket: &mut RequestSocket, name: &str) -> Result<Family, Error> {
    let request = Request::new(CONTROLLER, |message| {
        put_header(message, GET_FAMILY, 1);
        message.attribute_str(ATTR_FAMILY_NAME, name);
    });
    let not_found = || Error::FamilyNotFound { name: name.to_owned() };
    match socket.request(&request, parse_family) {
        Ok(families) => families.into_iter().next().ok_or_else(not_found),
        Err(Error::Refused { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => Err(not_found()),
        Err(e) => Err(e),
    }
}

/// Appends `struct genlmsghdr`.
pub fn put_header(message: &mut MessageBuffer, command: u8, version: u8) {
    message.put(&[command, version, 0, 0]);
}

/// Command of a received message.
pub fn command(message: &Message<'_>) -> Option<u8> {
    message.payload.first().copied()
}

fn parse_family(message: &Message<'_>) -> Option<Family> {
    let mut family = Family::default();
    for attribute in message.attributes(HEADER) {
        match attribute.kind {
            ATTR_FAMILY_ID => family.id = attribute.u16()?,
            ATTR_VERSION => family.version = attribute.u32()?,
            ATTR_GROUPS => family.groups = attribute.nested().filter_map(|g| parse_group(&g)).collect(),
            _ => {}
        }
    }
    (family.id != 0).then_some(family)
}

fn parse_group(group: &Attribute<'_>) -> Option<(String, u32)> {
    let find = |kind| group.nested().find(move |a| a.kind == kind);
    let name = String::from_utf8_lossy(find(ATTR_GROUP_NAME)?.string()).into_owned();
    Some((name, find(ATTR_GROUP_ID)?.u32()?))
}
