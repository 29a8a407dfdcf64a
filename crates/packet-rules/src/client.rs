//! Client of the kernel's nftables table.

use std::{collections::HashSet, io};

use dataplane::{BatchReport, ForwardDrop, ObservedRules, RulesTable, TableError};
use lb_types::{FastSet, IpFamily, RuleElement, RulesLayout, RulesOp};
use netlink::{Buffers, Counters, Protocol, RequestSocket};

use crate::{
    RulesError, forward, nft,
    observed::{self, ObservedTable, ObservedTables},
    socket::{BatchSocket, Outcome},
    spec::{SetId, TableFamily},
    transaction::{Refusal, Transaction, depends_on_table},
    watch::{RulesWatcher, Silencer},
};

/// Attempts to write a layout on condition that the ruleset has not changed since the table was read. Any
/// change of any table counts, so on busy hosts the condition has to go. A change of our table in just that
/// moment then spoils the layout or fails the transaction, and the watcher reports it.
const GUARDED: usize = 5;
/// Attempts to send a refused transaction again with its suspicious elements one by one. One suffices unless
/// others interfere.
const SPLITS: usize = 3;

/// Number of operations from which on a transaction is kept from the watcher: for fewer, asking for the
/// generation twice costs more than the notifications.
const LARGE: usize = 256;

/// Attempts to dump a set that grows at the same time.
const WALKS: usize = 10;

/// Client of the tables `inet kube-ipvs` and `arp kube-ipvs` in the network namespace of the thread that opened it.
///
/// It is synchronous: the kernel does the work inside the calls. It keeps nothing of the table in memory; it
/// writes elements as they come, and layouts after a look at the table.
pub struct RulesClient {
    /// Socket for reading.
    requests: RequestSocket,
    /// Socket for writing.
    batches: BatchSocket,
    /// Silencer of the watcher that listens beside it, if there is one.
    silencer: Option<Silencer>,
}

impl RulesClient {
    /// Opens the sockets. The first call shows a missing privilege, and at the latest then a missing module.
    pub fn open() -> Result<Self, RulesError> {
        let requests = RequestSocket::open(Protocol::NETFILTER, &Buffers::default())
            .map_err(|e| RulesError::from(e).with_remedy())?;
        Ok(RulesClient { requests, batches: BatchSocket::open()?, silencer: None })
    }

    /// Opens a watcher of changes by others; the kernel does not notify it of large transactions of this
    /// client.
    pub fn watch(&mut self) -> Result<RulesWatcher, RulesError> {
        let watcher = RulesWatcher::open(self.port_id())?;
        self.silencer = Some(watcher.silencer());
        Ok(watcher)
    }

    /// Port that notifications of our own changes carry, for [`crate::RulesWatcher::open`].
    pub fn port_id(&self) -> u32 {
        self.batches.port_id()
    }

    /// Numbers of system calls, messages and bytes of both sockets so far.
    pub fn counters(&self) -> Counters {
        self.requests.counters() + self.batches.counters
    }

    fn observe_rules(&mut self, wanted: &RulesLayout) -> Result<ObservedRules, RulesError> {
        let tables = self.read_tables()?;
        let exists = |id: &SetId| tables.table(id.table()).sets.contains_key(&nft::c_string(&id.name()));
        let mut elements = FastSet::default();
        for id in SetId::all_planned().filter(exists) {
            elements.extend(self.read_elements(id)?);
        }
        Ok(ObservedRules {
            table: tables.inet.flags.is_some(),
            layout_current: tables == ObservedTables::from(wanted),
            elements,
        })
    }

    /// Reads chains, rules and sets of our tables. Only the generation tells whether they belong together.
    fn read_tables(&mut self) -> Result<ObservedTables, RulesError> {
        Ok(ObservedTables {
            inet: self.read_table(TableFamily::Inet)?,
            arp: self.read_table(TableFamily::Arp)?,
        })
    }

    fn read_table(&mut self, family: TableFamily) -> Result<ObservedTable, RulesError> {
        let request = |message| observed::request(message, family);
        let flags = self.read_flags(family)?;
        let mut table = ObservedTable { flags, ..ObservedTable::default() };
        if flags.is_some() {
            let chains = self.requests.dump(&request(nft::GETCHAIN), observed::parse_chain)?;
            table.chains = chains.into_iter().collect();
            let sets = self.requests.dump(&request(nft::GETSET), observed::parse_set);
            table.sets = unless_gone(sets)?.into_iter().collect();
            let rules = self.requests.dump(&request(nft::GETRULE), observed::parse_rule);
            for (chain, comment) in unless_gone(rules)? {
                table.chains.entry(chain).or_default().comments.push(comment);
            }
        }
        Ok(table)
    }

    /// Reads the flags of a table; `None` if there is none.
    fn read_flags(&mut self, family: TableFamily) -> Result<Option<u32>, RulesError> {
        let request = observed::request(nft::GETTABLE, family);
        match self.requests.request(&request, observed::parse_table) {
            Ok(tables) => Ok(tables.first().copied()),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Reads all elements of a set.
    ///
    /// A dump comes in parts, each of which walks the hash table anew and skips what came before. While the
    /// table grows, after many additions, its order changes: the dump misses elements, and as many come twice
    /// (nft_rhash_walk in net/netfilter/nft_set_hash.c). Moreover the kernel calls a dump interrupted
    /// whenever anybody has changed any table meanwhile, which on busy hosts is always. So if no attempt is
    /// beyond doubt, the result is everything that any of them showed: nobody but us changes our sets, and
    /// the watcher notices anybody who does.
    fn read_elements(&mut self, id: SetId) -> Result<FastSet<RuleElement>, RulesError> {
        let request = observed::elements_request(id);
        let mut seen = FastSet::default();
        for _ in 0..WALKS {
            let mut walk = Walk::default();
            let dump = self.requests.dump(&request, |message| -> Option<()> {
                walk.add(message.sequence, observed::parse_elements(id, message), &mut seen);
                None
            });
            match dump {
                Err(netlink::Error::DumpInterrupted { .. }) => return Ok(seen),
                dump => unless_gone(dump)?,
            };
            if walk.twice == 0 {
                return Ok(walk.elements);
            }
        }
        Ok(seen)
    }

    fn find_forward_drops(&mut self) -> Result<Vec<ForwardDrop>, RulesError> {
        let dropping = self.requests.dump(&forward::chains_request(), forward::parse_dropping_chain)?;
        let mut read = |chain: &forward::ChainId| {
            unless_gone(self.requests.dump(&forward::rules_request(chain), forward::parse_rule))
        };
        let mut drops = Vec::new();
        for chain in dropping {
            if forward::drops_answers(&chain, &mut read)? {
                let (family, table, chain) = chain;
                let (family, prefix) = match family {
                    nft::NFPROTO_IPV4 => (Some(IpFamily::V4), "ip"),
                    nft::NFPROTO_IPV6 => (Some(IpFamily::V6), "ip6"),
                    _ => (None, "inet"),
                };
                drops.push(ForwardDrop { family, table: format!("{prefix} {table}"), chain });
            }
        }
        Ok(drops)
    }

    fn read_generation(&mut self) -> Result<u32, RulesError> {
        let answer = self.requests.request(&observed::generation_request(), observed::parse_generation)?;
        // A kernel without generations (before 4.9) would have no use for one either.
        Ok(answer.first().copied().unwrap_or(0))
    }

    fn execute(&mut self, ops: &[RulesOp]) -> Result<BatchReport, RulesError> {
        let (mut alone, mut overtaken, mut splits) = (HashSet::new(), 0, 0);
        loop {
            let (tables, generation) = self.basis(ops)?;
            let transaction = Transaction::build(ops, tables, &alone);
            if transaction.messages.is_empty() {
                return Ok(BatchReport::default());
            }
            match self.commit(&transaction, generation.filter(|_| overtaken < GUARDED))? {
                Outcome::Committed => return Ok(BatchReport::default()),
                Outcome::Unknown => return Ok(BatchReport { failed: vec![], replies_lost: true }),
                Outcome::Outdated => overtaken += 1,
                Outcome::Refused { refusals, replies_lost } => {
                    let suspects = transaction.suspects(ops, &refusals);
                    if suspects.is_empty() || splits == SPLITS {
                        return Ok(BatchReport {
                            failed: transaction.failed_ops(ops, &refusals),
                            replies_lost,
                        });
                    }
                    alone.extend(suspects);
                    splits += 1;
                }
            }
        }
    }

    /// Sends a transaction; a large one while the watcher hears nothing. The generation of the ruleset tells
    /// whether anybody else has changed any table meanwhile: then the watcher reports it. The change that
    /// raised the first generation must have been announced before: the kernel counts first and notifies
    /// later (`nf_tables_commit`).
    fn commit(&mut self, transaction: &Transaction, generation: Option<u32>) -> Result<Outcome, RulesError> {
        let Some(silencer) = self.silencer.clone().filter(|_| transaction.operations() >= LARGE) else {
            return self.batches.commit(transaction, generation);
        };
        let before = self.read_generation()?;
        self.batches.settle()?;
        silencer.begin()?;
        let outcome = self.batches.commit(transaction, generation);
        let hears = silencer.end();
        let ours = u32::from(matches!(outcome, Ok(Outcome::Committed)));
        if self.read_generation().ok() != Some(before.wrapping_add(ours)) {
            silencer.missed();
        }
        hears?;
        outcome
    }

    /// Reads what the messages depend on: the tables, and the generation that they belong to.
    fn basis(&mut self, ops: &[RulesOp]) -> Result<(ObservedTables, Option<u32>), RulesError> {
        if !depends_on_table(ops) {
            return Ok((ObservedTables::default(), None));
        }
        let generation = self.read_generation()?;
        Ok((self.read_tables()?, Some(generation)))
    }

    fn probe_arp(&mut self) -> Result<bool, RulesError> {
        // Where we have one, nothing need be tried.
        if self.read_flags(TableFamily::Arp)?.is_some() {
            return Ok(true);
        }
        match self.batches.try_out(&Transaction::create_table(TableFamily::Arp))? {
            Outcome::Committed => Ok(true),
            Outcome::Refused { refusals, .. } => match refusals.first() {
                Some(Refusal { errno: libc::EOPNOTSUPP | libc::EAFNOSUPPORT, .. }) | None => Ok(false),
                Some(Refusal { errno, text, .. }) => Err(RulesError::Refused {
                    source: io::Error::from_raw_os_error(*errno),
                    text: text.clone(),
                }),
            },
            Outcome::Outdated | Outcome::Unknown => {
                Err(RulesError::Refused { source: io::ErrorKind::TimedOut.into(), text: None })
            }
        }
    }
}

/// Findings of the last attempt at a dump so far.
#[derive(Default)]
struct Walk {
    /// Sequence number of the attempt.
    attempt: u32,
    elements: FastSet<RuleElement>,
    /// Number of elements that came a second time.
    twice: usize,
}

impl Walk {
    /// Adds a part of attempt number `attempt`; `seen` gets everything.
    fn add(&mut self, attempt: u32, part: Vec<RuleElement>, seen: &mut FastSet<RuleElement>) {
        if attempt != self.attempt {
            *self = Walk { attempt, ..Walk::default() };
        }
        for element in part {
            seen.insert(element);
            if !self.elements.insert(element) {
                self.twice += 1;
            }
        }
    }
}

/// Takes the dump of something that has been deleted meanwhile as empty.
fn unless_gone<T>(dump: Result<Vec<T>, netlink::Error>) -> Result<Vec<T>, RulesError> {
    match dump {
        Err(e) if e.is_not_found() => Ok(vec![]),
        dump => Ok(dump?),
    }
}

impl RulesTable for RulesClient {
    fn dumps_interrupted(&self) -> u64 {
        self.counters().dumps_interrupted
    }

    fn observe(&mut self, wanted: &RulesLayout) -> Result<ObservedRules, TableError> {
        self.observe_rules(wanted).map_err(|e| e.during("dump the tables of kube-ipvs"))
    }

    fn has_arp(&mut self) -> Result<bool, TableError> {
        self.probe_arp().map_err(|e| e.during("ask for tables of family arp"))
    }

    fn forward_drops(&mut self) -> Result<Vec<ForwardDrop>, TableError> {
        self.find_forward_drops().map_err(|e| e.during("look for chains that drop forwarded packets"))
    }

    fn apply(&mut self, ops: &[RulesOp]) -> Result<BatchReport, TableError> {
        if ops.is_empty() {
            return Ok(BatchReport::default());
        }
        self.execute(ops).map_err(|e| e.during("change the tables of kube-ipvs"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vips(numbers: &[u32]) -> Vec<RuleElement> {
        numbers.iter().map(|n| RuleElement::Vip(std::net::Ipv4Addr::from(*n).into())).collect()
    }

    #[test]
    fn only_the_last_attempt_counts_but_everything_is_remembered() {
        let (mut walk, mut seen) = (Walk::default(), FastSet::default());
        walk.add(7, vips(&[1, 2]), &mut seen);
        walk.add(7, vips(&[2, 3]), &mut seen);
        assert_eq!((walk.elements.len(), walk.twice), (3, 1));
        walk.add(8, vips(&[3, 4]), &mut seen);
        assert_eq!((&walk.elements, walk.twice), (&vips(&[3, 4]).into_iter().collect(), 0));
        assert_eq!(seen, vips(&[1, 2, 3, 4]).into_iter().collect());
    }
}
