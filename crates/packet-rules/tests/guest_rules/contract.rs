//! The demands on every table, made on the kernel's.

use dataplane::contract::rules::CASES;
use packet_rules::RulesClient;
use testkit::in_new_netns;

#[test]
fn contract() {
    for case in CASES {
        let start = std::time::Instant::now();
        in_new_netns(|| {
            let mut client = RulesClient::open().expect("open the sockets");
            (case.run)(&mut client);
        });
        println!("{:6} ms  {}", start.elapsed().as_millis(), case.name);
    }
}
