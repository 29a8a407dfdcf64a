//! Outcomes for clients of an address: an answer, with the address that the pod sees, a refusal, or nothing.

use std::{net::SocketAddr, thread, time::Duration};

use e2e::{
    manifest::Service,
    net::{BRIDGE, CLIENT_TIMEOUT, Client, NODE},
    probe::Proto,
};
use testkit::wait_for;

use crate::testbed::{Testbed, WAIT_LIMIT};

/// Outcome of a question to an address.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gets {
    /// An answer from a pod that sees the client's own address.
    Own,
    /// An answer from a pod that sees an address of the node.
    Node,
    /// A refusal.
    Refused,
    /// Nothing.
    Nothing,
}

/// Time after which whoever should get nothing has got nothing: where a packet is let through, the answer follows
/// within a fraction of it.
const SILENCE: Duration = Duration::from_secs(2);

/// Asks; an error is an outcome that nobody expects.
pub fn ask(client: &Client, proto: Proto, to: SocketAddr) -> Result<Gets, String> {
    ask_within(CLIENT_TIMEOUT, client, proto, to)
}

fn ask_within(timeout: Duration, client: &Client, proto: Proto, to: SocketAddr) -> Result<Gets, String> {
    let outcome = client.ask_within(timeout, proto, to);
    match &outcome.result {
        Ok(answer) if client.own.contains(answer.peer.ip()) && client.own != NODE => Ok(Gets::Own),
        Ok(answer) if NODE.contains(answer.peer.ip()) || BRIDGE.contains(answer.peer.ip()) => Ok(Gets::Node),
        // What is rejected in the node's own output hook makes `send` fail.
        Err(failure) if failure.is_refused() || failure.error == "EPERM" && client.own == NODE => {
            Ok(Gets::Refused)
        }
        Err(_) => Ok(Gets::Nothing),
        Ok(_) => Err(format!("{} -> {proto} {to}: {outcome}", client.place)),
    }
}

/// Asks until an answer comes from this pod or daemon.
#[track_caller]
pub fn wait_answer(client: &Client, proto: Proto, to: SocketAddr, name: &str) {
    wait_for(WAIT_LIMIT, &format!("{} to get {name} at {proto} {to}", client.place), || {
        let outcome = client.ask_within(SILENCE, proto, to);
        let answer = outcome.result.as_ref().map_err(|_| outcome.to_string())?;
        if answer.pod == name { Ok(()) } else { Err(answer.pod.clone()) }
    });
}

/// Checks what the node, a pod, the pod that answers and the client outside get at an address of each family.
#[track_caller]
pub fn check(testbed: &Testbed, at: [SocketAddr; 2], expected: [Gets; 4]) {
    for (client, expected) in testbed.clients().iter().zip(expected) {
        // A client that gets nothing waits, so it asks with one transport alone.
        let (protos, timeout) = match expected {
            Gets::Nothing => (&[Proto::Tcp][..], SILENCE),
            // No ICMPv6 error refuses SCTP.
            Gets::Refused => (&[Proto::Tcp, Proto::Udp][..], CLIENT_TIMEOUT),
            _ => (&Proto::ALL[..], CLIENT_TIMEOUT),
        };
        for (proto, to) in protos.iter().flat_map(|proto| at.map(|to| (*proto, to))) {
            assert_eq!(
                ask_within(timeout, client, proto, to),
                Ok(expected),
                "{} over {proto}, {to}",
                client.place
            );
        }
    }
}

/// Waits until the client outside gets this over TCP, in both families.
#[track_caller]
pub fn wait(testbed: &Testbed, at: [SocketAddr; 2], expected: Gets) {
    let outside = testbed.net.outside_client();
    wait_for(WAIT_LIMIT, &format!("the client outside to get {expected:?}"), || {
        for to in at {
            let gets = ask_within(SILENCE, &outside, Proto::Tcp, to)?;
            if gets != expected {
                return Err(format!("it gets {gets:?} from {to}"));
            }
        }
        Ok(())
    });
}

/// Checks that a Service of the first pod, from now on with a Local policy, serves whom it means. The pod is on this
/// node, and clients outside keep their address; then it is said to be on another one, and they get no answer, while
/// clients of this node do. `pods` is what a pod gets in these two cases.
#[track_caller]
pub fn check_local_policy(testbed: &Testbed, at: [SocketAddr; 2], local: &Service, pods: [Gets; 2]) {
    testbed.manifests.service(local);
    wait(testbed, at, Gets::Own);
    check(testbed, at, [Gets::Node, pods[0], Gets::Node, Gets::Own]);
    let mut elsewhere = testbed.ready(1..=1);
    elsewhere[0].node = "another";
    testbed.manifests.endpoints(local, &elsewhere);
    wait(testbed, at, Gets::Nothing);
    check(testbed, at, [Gets::Node, pods[1], Gets::Node, Gets::Nothing]);
}

/// Waits until everybody is refused at these addresses, over TCP and UDP. The kernel that has just told a pod of a better
/// way to itself says nothing else to it for a second.
#[track_caller]
pub fn wait_all_refused(testbed: &Testbed, at: [SocketAddr; 2]) {
    let ways = [Proto::Tcp, Proto::Udp].into_iter().flat_map(|proto| at.map(|to| (proto, to)));
    let ways: Vec<_> = ways.collect();
    for (client, (proto, to)) in
        testbed.clients().iter().flat_map(|client| ways.iter().map(move |way| (client, *way)))
    {
        let what = format!("{} to be refused over {proto} at {to}", client.place);
        wait_for(WAIT_LIMIT, &what, || match ask_within(SILENCE, client, proto, to)? {
            Gets::Refused => Ok(()),
            gets => Err(format!("{gets:?}")),
        });
    }
}

/// Waits until nobody gets an answer at these addresses, over TCP or UDP, be it a refusal or nothing.
#[track_caller]
pub fn wait_no_answer(testbed: &Testbed, at: &[SocketAddr]) {
    let clients = testbed.clients();
    let ways: Vec<_> = at.iter().flat_map(|to| [(Proto::Tcp, *to), (Proto::Udp, *to)]).collect();
    let all = || clients.iter().flat_map(|client| ways.iter().map(move |(proto, to)| (client, *proto, *to)));
    wait_for(WAIT_LIMIT, &format!("no answer at {at:?}"), || {
        let answers = together(all(), |(client, proto, to)| {
            let answer = client.ask_within(SILENCE, proto, to).result.ok()?;
            Some(format!("{} -> {proto} {to}: {answer}", client.place))
        });
        answers.into_iter().flatten().next().map_or(Ok(()), Err)
    });
}

/// Calls `f` for all of them at the same time: whoever gets nothing waits for it.
pub fn together<T: Send, R: Send>(all: impl IntoIterator<Item = T>, f: impl Fn(T) -> R + Sync) -> Vec<R> {
    thread::scope(|scope| {
        let f = &f;
        let threads: Vec<_> = all.into_iter().map(|one| scope.spawn(move || f(one))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}
