use super::CASES;
use crate::fake::FakeIpvs;

#[test]
fn the_fake_meets_every_demand() {
    for case in CASES {
        eprintln!("{}", case.name);
        (case.run)(&mut FakeIpvs::default());
    }
}
