//! Everything that can happen to a node, at random and for minutes: the kernel follows, a bystander does not
//! notice.
//!
//! `CHAOS_SEED` repeats a run as far as time allows, `CHAOS_MINUTES` makes it longer than [`SHORT_RUN`], and
//! `CHAOS_VERBOSE` prints every action. `CHAOS_SOURCE=manifests` takes a directory in the place of an API
//! server that breaks. Every run has one round of each kind.
//!
//! Rounds follow each other. Each ends with a quiet point at which an independent reader of objects and
//! kernel (`e2e::checker`) must find no difference. They differ in what happens:
//!
//! | round      | objects change | API faults, `kill -9` | damage by others | the bystander may notice       |
//! | ---------- | -------------- | --------------------- | ---------------- | ------------------------------ |
//! | calm       | yes            | yes                   | no               | nothing at all                 |
//! | outsider   | yes            | no                    | one burst        | failures within [`RECOVERY`]   |
//! | everything | yes            | yes                   | all the time     | failures up to the quiet point |

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use e2e::{
    chaos::{Api, Cluster, Directory, History, Objects, Random, Step, damage},
    checker::{Draining, Kernel, Wanted, differences},
    manifest::{NODE_NAME, Service, render_node, render_slice, to_json},
    net::{OUTSIDE, PodNetwork, cluster_ip},
    observe::Ipvs,
    probe::{
        Proto,
        load::{Incident, Load, Settings},
    },
    proxy::Source,
};
use testkit::{try_wait_for, wait_until};

use crate::testbed::{Testbed, WAIT_LIMIT};

/// Number of Services that change in a run whose length was asked for.
const SERVICES: usize = 200;
/// Length of a run by default, for which there are [`SHORT_SERVICES`]: one look at 200 Services takes an
/// emulated guest five seconds at best, and a minute on a busy host.
const SHORT_RUN: Duration = Duration::from_secs(60);
const SHORT_SERVICES: usize = 60;
/// Length of a round, without the quiet point at its end.
const ROUND_TIME: Duration = Duration::from_secs(18);
/// Time for reaching the quiet point: the longest pause between two attempts to reach an API server that was
/// broken is 30 s, and the guest may be on a busy host.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(120);

/// Period of the audit, the next of which finds virtual servers that somebody damaged.
const SYNC_PERIOD: Duration = Duration::from_secs(5);
/// Time after the last damage from which on connections must succeed again: an audit, and the repair itself
/// in a slow guest.
const RECOVERY: Duration = Duration::from_secs(SYNC_PERIOD.as_secs() + 7);
/// Time within which the burst of an outsider's round comes, so that something of the round is left after it.
const BURST_WITHIN: Duration = Duration::from_secs(4);

/// Number of connections of the bystander at the end of a round.
const CONNECTIONS_AFTER_QUIET: u64 = 40;

/// Kernel of the short form; with `CHAOS_MINUTES` it runs on any.
const SHORT_RUN_SERIES: &str = "6.12";
/// Number of differences that are shown when a quiet point is not reached.
const DIFFERENCES_SHOWN: usize = 40;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    Calm,
    Outsider,
    Everything,
}

const ROUNDS: [Round; 3] = [Round::Calm, Round::Outsider, Round::Everything];

#[test]
fn chaos_slow() {
    let minutes: Option<u64> = number("CHAOS_MINUTES");
    let series = std::env::var("KUBE_IPVS_KERNEL_SERIES").unwrap_or_default();
    if minutes.is_none() && series != SHORT_RUN_SERIES {
        println!("skipped: the short form runs on {SHORT_RUN_SERIES} only; set CHAOS_MINUTES to run it here");
        return;
    }
    let length = minutes.map_or(SHORT_RUN, |minutes| Duration::from_secs(60 * minutes));
    let services = if minutes.is_some() { SERVICES } else { SHORT_SERVICES };
    let mut chaos = Chaos::new(number("CHAOS_SEED").unwrap_or_else(seed_of_the_day), services);
    let begin = Instant::now();
    for round in ROUNDS.iter().cycle() {
        chaos.round(*round);
        if begin.elapsed() >= length && chaos.totals.len() >= ROUNDS.len() {
            break;
        }
    }
    chaos.report();
    chaos.control();
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

fn source(testbed: &mut Testbed) -> Box<dyn Objects> {
    if std::env::var("CHAOS_SOURCE").is_ok_and(|source| source == "manifests") {
        return Box::new(Directory::new(testbed.manifests.clone()));
    }
    let kubeconfig = testbed.settings.state.join("kubeconfig");
    let api = Api::start(&testbed.net.node, &kubeconfig);
    testbed.settings.source = Source::Kubeconfig(kubeconfig);
    Box::new(api)
}

/// Seed that is another one every day, and the same for everybody on that day.
fn seed_of_the_day() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400)
}

fn bystander() -> Service {
    Service::new("bystander", cluster_ip(80), &[Proto::Tcp])
}

struct Chaos {
    random: Random,
    testbed: Testbed,
    objects: Box<dyn Objects>,
    cluster: Cluster,
    /// Chains and rules of our table at the first quiet point: they must not depend on what happens.
    rules: String,
    /// Time of the next start while kube-ipvs is killed.
    restart: Option<Instant>,
    /// Time until which damaged packet rules may not have been repaired.
    unruled_until: Instant,
    /// True if somebody has changed real servers, which IPVS announces to nobody.
    meddled: bool,
    /// Contents of IPVS at the last look: a look takes seconds, too long for choosing what to damage.
    seen: Ipvs,
    /// Numbers of connections of the bystander by kind of round: all, and failed ones that were excused.
    totals: Vec<(Round, u64, u64)>,
    /// Last field, so that it is shown after the log of kube-ipvs.
    aftermath: Aftermath,
}

/// Information that helps to understand a failure.
struct Aftermath {
    seed: u64,
    verbose: bool,
    history: History,
    /// Last differences that were found.
    differences: String,
}

impl Drop for Aftermath {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("chaos: CHAOS_SEED={}\n{}{}", self.seed, self.history, self.differences);
        }
    }
}

impl Chaos {
    fn new(seed: u64, services: usize) -> Chaos {
        println!("chaos: CHAOS_SEED={seed} repeats it");
        let mut testbed = Testbed::new(PodNetwork::Routed, 3);
        let mut objects = source(&mut testbed);
        let (service, pods) = (bystander(), testbed.ready(1..=3));
        let fixed = [render_node(), service.render()].into_iter();
        let slices = [true, false].map(|v4| render_slice(&service, if v4 { "v4" } else { "v6" }, v4, &pods));
        for object in fixed.chain(slices) {
            objects.write(&Step::Apply(to_json(&object)));
        }
        let (mut random, mut cluster) = (Random::new(seed), Cluster::new(services));
        cluster.adopt(objects.list());
        for _ in 0..services {
            let change = cluster.create(&mut random).expect("a free address");
            for step in &change.steps {
                objects.write(step);
            }
        }
        let sync = format!("--ipvs-sync-period={}s", SYNC_PERIOD.as_secs());
        testbed.start(&[&sync, "--graceful-linger=2s"]);
        let verbose = std::env::var_os("CHAOS_VERBOSE").is_some();
        let aftermath = Aftermath { seed, verbose, history: History::new(), differences: String::new() };
        let mut chaos = Chaos {
            random,
            testbed,
            objects,
            cluster,
            rules: String::new(),
            restart: None,
            unruled_until: Instant::now(),
            meddled: false,
            seen: Ipvs::default(),
            totals: Vec::new(),
            aftermath,
        };
        try_wait_for(SETTLE_TIMEOUT, "the rules", || chaos.learn_rules())
            .unwrap_or_else(|error| panic!("{error}"));
        chaos.quiet();
        chaos
    }

    fn learn_rules(&mut self) -> Result<(), String> {
        self.rules = Kernel::read(&self.testbed.net.node)?.rules;
        let has_table = |family: &str| self.rules.contains(&format!("\"family\":\"{family}\""));
        if has_table("inet") && has_table("arp") { Ok(()) } else { Err("no rules yet".to_owned()) }
    }

    fn round(&mut self, round: Round) {
        self.note(&format!("round: {round:?}"));
        let mut bystander = Bystander::start(&self.testbed);
        let begin = Instant::now();
        let mut burst = (round == Round::Outsider)
            .then(|| begin + BURST_WITHIN * u32::try_from(self.random.below(100)).unwrap_or_default() / 100);
        while begin.elapsed() < ROUND_TIME {
            if burst.is_some_and(|at| Instant::now() >= at) {
                burst = None;
                for _ in 0..1 + self.random.below(3) {
                    self.damage(&mut bystander, Some(RECOVERY));
                }
            }
            self.act(round, &mut bystander);
            self.start_again_if_due();
        }
        self.quiet();
        bystander.no_more_excuses();
        let (connections, excused) = bystander.judge();
        self.totals.push((round, connections, excused));
    }

    /// Makes one thing happen, and pauses.
    fn act(&mut self, round: Round, bystander: &mut Bystander) {
        match self.random.below(100) {
            0..4 if round != Round::Outsider => self.kill(),
            4..14 if round != Round::Outsider => self.disturb(),
            14..24 if round == Round::Everything => self.damage(bystander, None),
            _ => self.change(),
        }
        std::thread::sleep(Duration::from_millis(self.random.below(200) as u64));
    }

    fn change(&mut self) {
        let change = self.cluster.change(&mut self.random);
        self.note(&change.what);
        for step in &change.steps {
            self.objects.write(step);
            // Now and then others have time to see the state in between.
            if self.random.chance(20) {
                std::thread::sleep(Duration::from_millis(self.random.below(100) as u64));
            }
        }
    }

    fn disturb(&mut self) {
        let Some(disturbance) = self.objects.disturb(&mut self.random) else { return };
        self.note(&format!("API: {}", disturbance.what));
        if disturbance.lost {
            self.cluster.adopt(self.objects.list());
        }
    }

    fn damage(&mut self, bystander: &mut Bystander, recovery: Option<Duration>) {
        let command = damage(&mut self.random, &self.seen);
        // The packet rules are the only record of the marks of Services that go before the next start.
        if command.starts_with("nft ") && !self.knows_rules() {
            return;
        }
        self.meddled |=
            ["ipvsadm -a", "ipvsadm -d", "ipvsadm -e"].iter().any(|start| command.starts_with(start));
        let begin = Instant::now();
        if command.starts_with("nft ") {
            self.unruled_until = begin + RECOVERY;
        }
        let result = self.testbed.net.node.try_run(&command.split(' ').collect::<Vec<_>>());
        bystander.excuse(begin, recovery.map(|recovery| Instant::now() + recovery));
        let outcome = if result.is_ok() { "" } else { " (failed)" };
        self.note(&format!("damage: {command}{outcome}"));
    }

    /// Kills kube-ipvs, unless the packet rules may be damaged: they are the only record of the virtual servers by
    /// packet mark, and a process that finds neither rules nor record leaves those alone.
    fn kill(&mut self) {
        if self.restart.is_none() && Instant::now() >= self.unruled_until {
            let pause = Duration::from_millis(self.random.below(1_500) as u64);
            self.note(&format!("kill -9, start again after {} ms", pause.as_millis()));
            self.testbed.proxy().assert_running();
            self.testbed.proxy().kill();
            self.restart = Some(Instant::now() + pause);
        }
    }

    /// Tells whether kube-ipvs is there and has read the packet rules since its start.
    fn knows_rules(&mut self) -> bool {
        self.restart.is_none() && self.testbed.proxy().has_adopted()
    }

    fn start_again_if_due(&mut self) {
        match self.restart {
            Some(at) if Instant::now() >= at => {
                self.restart = None;
                self.testbed.proxy().start_again();
            }
            Some(_) => {}
            None => self.testbed.proxy().assert_running(),
        }
    }

    /// Lets nothing happen any more: soon the kernel is as the objects say, and soon after that all drains
    /// are over.
    fn quiet(&mut self) {
        if self.restart.take().is_some() {
            self.testbed.proxy().start_again();
        }
        let may_be_deaf = self.objects.heal();
        self.note("quiet");
        // kube-ipvs finds out by itself, but not soon enough to wait for it here: after 150 s (scenario tests
        // of kube-source), or when the audit comes to that virtual server, for which it takes 0.2 % of an
        // emulated processor (`repair`).
        let reasons = [
            (may_be_deaf, "the API server has lost versions"),
            (std::mem::take(&mut self.meddled), "real servers were changed"),
        ];
        if let Some((_, reason)) = reasons.iter().find(|(is_so, _)| *is_so) {
            self.note(&format!("kill -9, because {reason}"));
            std::thread::sleep(self.unruled_until.saturating_duration_since(Instant::now()));
            self.testbed.proxy().kill();
            self.testbed.proxy().start_again();
        }
        self.cluster.adopt(self.objects.list());
        let objects: Vec<_> = self.cluster.objects().cloned().collect();
        let wanted = Wanted::of(&objects, NODE_NAME).unwrap_or_else(|error| panic!("{error}"));
        let (begin, mut looks) = (Instant::now(), 0);
        let took = [Draining::MayRun, Draining::Over].map(|draining| {
            let what = format!("the kernel to be as the objects say, drains: {draining:?}");
            let result = try_wait_for(SETTLE_TIMEOUT, &what, || {
                looks += 1;
                self.compare(&wanted, draining)
            });
            result.unwrap_or_else(|error| panic!("{error}"));
            begin.elapsed().as_secs_f64()
        });
        self.testbed.proxy().assert_running();
        println!(
            "quiet after {} actions: {} Services, {} virtual servers right after {:.1} s, drains over after {:.1} s, {looks} looks",
            self.aftermath.history.count(),
            self.cluster.services().len(),
            wanted.servers.len(),
            took[0],
            took[1]
        );
    }

    fn compare(&mut self, wanted: &Wanted, draining: Draining) -> Result<(), String> {
        let kernel = Kernel::read(&self.testbed.net.node)?;
        let found = differences(wanted, &kernel, &self.rules, draining);
        self.seen = kernel.ipvs;
        self.aftermath.differences.clear();
        if found.is_empty() {
            return Ok(());
        }
        let shown = found.iter().take(DIFFERENCES_SHOWN).map(|line| format!("  {line}")).collect::<Vec<_>>();
        self.aftermath.differences = format!("{} differences:\n{}", found.len(), shown.join("\n"));
        self.note(&format!("look: {} differences, the first: {}", found.len(), found[0]));
        Err(self.aftermath.differences.clone())
    }

    /// Shows that the judge notices: without kube-ipvs it sees damage.
    fn control(&mut self) {
        self.testbed.proxy().terminate();
        let vip = std::net::SocketAddr::new(bystander().ips[0], 80);
        self.testbed.net.node.sh(&format!("ipvsadm -D -t {vip}"));
        let objects: Vec<_> = self.cluster.objects().cloned().collect();
        let wanted = Wanted::of(&objects, NODE_NAME).unwrap_or_else(|error| panic!("{error}"));
        let found =
            self.compare(&wanted, Draining::MayRun).expect_err("a missing virtual server is a difference");
        assert!(
            found.contains(&format!("virtual server TCP {vip} of default/bystander: is missing")),
            "{found}"
        );
    }

    fn note(&mut self, what: &str) {
        self.aftermath.history.add(what);
        if self.aftermath.verbose {
            println!("{:?} {what}", self.aftermath.history.elapsed());
        }
    }

    fn report(&self) {
        for kind in ROUNDS {
            let rounds: Vec<_> = self.totals.iter().filter(|(round, ..)| *round == kind).collect();
            let (connections, excused) =
                rounds.iter().fold((0, 0), |sum, (_, all, failed)| (sum.0 + all, sum.1 + failed));
            println!(
                "{kind:?}: {} rounds, {connections} connections of the bystander, {excused} failed while somebody's damage was repaired, 0 failed otherwise",
                rounds.len()
            );
        }
    }
}

/// A service that nobody touches, under short connections.
struct Bystander {
    load: Load,
    begin: Instant,
    /// Times that excuse failures, since the beginning; one without an end lasts until the round ends.
    excuses: Vec<(Duration, Option<Duration>)>,
}

impl Bystander {
    fn start(testbed: &Testbed) -> Bystander {
        let mut settings = Settings::new(&cluster_ip(80).port(80), &OUTSIDE.each());
        settings.kept = usize::MAX;
        let begin = Instant::now();
        let load = testbed.net.outside.enter(|| Load::start(&settings));
        Bystander { load, begin, excuses: Vec::new() }
    }

    /// Excuses failures of connections that overlap this time.
    fn excuse(&mut self, from: Instant, to: Option<Instant>) {
        let since = |at: Instant| at.duration_since(self.begin);
        self.excuses.push((since(from), to.map(since)));
    }

    /// Ends all excuses: connections from now on must succeed.
    fn no_more_excuses(&mut self) {
        let now = self.begin.elapsed();
        for (_, to) in &mut self.excuses {
            *to = Some(to.unwrap_or(now));
        }
    }

    /// Checks that every failed connection was excused. Returns the number of all and of the excused ones.
    #[track_caller]
    fn judge(self) -> (u64, u64) {
        let made = self.load.progress().connections;
        wait_until(WAIT_LIMIT, "connections after all is quiet", || {
            self.load.progress().connections >= made + CONNECTIONS_AFTER_QUIET
        });
        let report = self.load.stop();
        println!(
            "  bystander: {} connections, {:?}, {} slow",
            report.connections, report.failures, report.slow
        );
        let is_excused = |incident: &&Incident| {
            let (at, end) = (incident.at, incident.at + incident.took);
            self.excuses
                .iter()
                .any(|(from, to)| end >= from.as_millis() && to.is_none_or(|to| at <= to.as_millis()))
        };
        let failed = report.incidents.iter().filter(|incident| incident.is_failure());
        let (excused, guilty): (Vec<_>, Vec<_>) = failed.partition(is_excused);
        assert!(guilty.is_empty(), "the bystander failed, excused was {:?}: {guilty:#?}", self.excuses);
        (report.connections, excused.len() as u64)
    }
}
