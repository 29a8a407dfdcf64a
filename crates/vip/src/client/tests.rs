use super::*;

fn vip(last: u8) -> IpAddr {
    [10, 96, 0, last].into()
}

fn ensure(last: u8) -> VipOp {
    VipOp::EnsureRoute { vip: vip(last), table: RouteTable::Local, source: None }
}

fn check(ops: &[VipOp], expect: &[(usize, usize)]) {
    let got: Vec<_> = groups(ops).into_iter().map(|group| (group.start, group.end)).collect();
    assert_eq!(got, expect, "{ops:?}");
}

#[test]
fn operations_are_cut_where_order_matters() {
    let (delete, unbind) =
        (VipOp::DeleteRoute { vip: vip(1), table: RouteTable::Local }, VipOp::DeleteAddress { addr: vip(1) });
    check(&[], &[]);
    check(&[ensure(1), ensure(2), ensure(3)], &[(0, 3)]);
    check(&[VipOp::EnsureLink, ensure(1), ensure(2)], &[(0, 1), (1, 3)]);
    check(&[ensure(1), VipOp::EnsureLink, ensure(1)], &[(0, 1), (1, 2), (2, 3)]);
    check(&[VipOp::EnsureLink, VipOp::DeleteLink], &[(0, 1), (1, 2)]);
    check(&[ensure(1), ensure(2), delete, ensure(3), ensure(1)], &[(0, 2), (2, 4), (4, 5)]);
    check(&[ensure(1), unbind], &[(0, 1), (1, 2)]);
    let rule = VipOp::EnsureRule { family: lb_types::IpFamily::V4, bit: 12 };
    check(&[rule, ensure(1), ensure(2), rule], &[(0, 1), (1, 3), (3, 4)]);
}
