//! What the kernel's error numbers mean for writes to the nftables table.

use lb_types::{RuleElement, RulesOp};

use crate::errno_name;

/// One line for a refused write to the nftables table: operation, error, what it means there and the remedy.
///
/// The meanings are those of net/netfilter/nf_tables_api.c and of the modules that it loads for expressions.
pub fn explain_rules(op: &RulesOp, errno: i32) -> String {
    let meaning = match op {
        RulesOp::InstallLayout(_) => layout_meaning(errno),
        RulesOp::AddElement(_) | RulesOp::DeleteElement(_) => element_meaning(op, errno),
        RulesOp::DeleteTable => None,
    };
    let meaning = meaning.map_or_else(|| general_meaning(errno), str::to_owned);
    format!("{op}: {} ({errno}): {meaning}", errno_name(errno))
}

fn layout_meaning(errno: i32) -> Option<&'static str> {
    match errno {
        libc::ENOENT | libc::EOPNOTSUPP => Some(
            "the kernel lacks an nftables module: load them \
             (modprobe -a nf_tables nft_ct nft_nat nft_masq nft_chain_nat nft_reject_inet)",
        ),
        libc::EBUSY => Some("somebody's rule holds on to a chain or set of the table"),
        _ => None,
    }
}

fn element_meaning(op: &RulesOp, errno: i32) -> Option<&'static str> {
    match (op, errno) {
        (RulesOp::DeleteElement(_), libc::ENOENT) => Some("the table, the set or the element is missing"),
        (_, libc::ENOENT) => Some("the table or the set is missing"),
        (RulesOp::AddElement(RuleElement::Allow(..)), libc::EEXIST) => {
            Some("another prefix of that port overlaps with it")
        }
        (RulesOp::AddElement(_), libc::EEXIST) => Some("the map has another mark for that port"),
        (_, libc::EINVAL) => Some("the key is not one of this set"),
        (_, libc::ENFILE) => Some("the set is full"),
        _ => None,
    }
}

fn general_meaning(errno: i32) -> String {
    match errno {
        libc::EPERM => "CAP_NET_ADMIN is missing".to_owned(),
        libc::ENOMEM => "the kernel is out of memory".to_owned(),
        _ => std::io::Error::from_raw_os_error(errno).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use lb_types::RulesLayout;

    use super::*;

    #[test]
    fn nodes_that_load_their_modules_at_boot_load_all() {
        let text = layout_meaning(libc::ENOENT).unwrap();
        let modules = text.split_once("modprobe -a ").unwrap().1.trim_end_matches(')');
        let at_boot = include_str!("../../../manifests/node/modules.conf");
        for module in modules.split(' ') {
            assert!(at_boot.lines().any(|line| line == module), "{module}");
        }
    }

    #[test]
    fn the_same_number_means_different_things() {
        let element = RuleElement::Vip("10.96.0.1".parse().unwrap());
        let cases = [
            (RulesOp::InstallLayout(RulesLayout::default()), libc::ENOENT, "modprobe -a nf_tables"),
            (RulesOp::AddElement(element), libc::ENOENT, "the table or the set is missing"),
            (RulesOp::DeleteElement(element), libc::ENOENT, "the element is missing"),
            (RulesOp::DeleteTable, libc::EPERM, "CAP_NET_ADMIN"),
            (RulesOp::DeleteTable, libc::EXDEV, "Invalid cross-device link"),
        ];
        for (op, errno, part) in cases {
            let text = explain_rules(&op, errno);
            assert!(text.starts_with(&op.to_string()) && text.contains(part), "{text}");
        }
    }
}
