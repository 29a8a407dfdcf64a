//! The client, which resolves the family, sends commands, and translates the answers.

use std::net::{IpAddr, Ipv6Addr};

use dataplane::{
    BatchReport, FailedOp, IpvsTable, ObservedRealServer, TableError, VirtualServerDump, explain_ipvs,
};
use lb_types::{IpvsOp, Scheduler, TrafficCounters, VirtualServerId};
use netlink::{Batch, BatchOutcome, Buffers, Counters, Message, Protocol, RequestSocket, genl};

use crate::{
    Call, Error, autoload,
    codec::{
        Command, Daemon, DaemonState, Destination, Info, Service, ServiceKey, Timeouts, parse_daemon,
        parse_destination, parse_info, parse_service, parse_timeouts, uapi,
    },
    convert,
};

/// Dumps that are tried before repetitions are accepted: other writers disturbed a dump that contains an
/// object twice.
const DUMP_ATTEMPTS: usize = 3;

/// The IPVS tables of the network namespace in which it was opened.
///
/// The kernel does the work inside system calls that can take long for large batches: give the client a
/// thread of its own.
pub struct IpvsClient {
    socket: RequestSocket,
    /// Number of the family; it changes when the module is unloaded and loaded again.
    family: u16,
    /// Encoded messages; kept between calls for the memory.
    batch: Batch,
}

impl IpvsClient {
    /// Opens the tables of the network namespace of the calling thread.
    pub fn open() -> Result<Self, Error> {
        IpvsClient::open_with(&Buffers::default())
    }

    /// Does the same as [`IpvsClient::open`] with other socket buffers.
    pub fn open_with(buffers: &Buffers) -> Result<Self, Error> {
        let open = || -> Result<Self, netlink::Error> {
            let mut socket = RequestSocket::open(Protocol::GENERIC, buffers)?;
            let family = resolve(&mut socket)?;
            Ok(IpvsClient { socket, family, batch: Batch::new() })
        };
        open().map_err(|source| Error::new(Call::Open, source))
    }

    /// Numbers of system calls, messages and bytes of the socket so far.
    pub fn counters(&self) -> Counters {
        self.socket.counters()
    }

    /// All virtual servers in the kernel's words, with their statistics.
    ///
    /// Not a snapshot: other writers can make the kernel leave out or repeat entries.
    pub fn dump_services(&mut self) -> Result<Vec<Service>, Error> {
        let services = self.dump(Call::DumpVirtualServers, &Command::GetService(None), parse_service)?;
        Ok(services.into_iter().flatten().collect())
    }

    /// All real servers of a virtual server in the kernel's words, with their statistics; none if the virtual
    /// server does not exist.
    pub fn dump_destinations(&mut self, vs: VirtualServerId) -> Result<Vec<Destination>, Error> {
        let key = convert::service_key(vs);
        let parse = |message: &Message<'_>| parse_destination(message, &key);
        let destinations = self.dump(Call::DumpRealServers(vs), &Command::GetDest(&key), parse)?;
        Ok(destinations.into_iter().flatten().collect())
    }

    /// One virtual server in the kernel's words; [`Error::is_not_found`] if it does not exist.
    pub fn get_service(&mut self, vs: VirtualServerId) -> Result<Service, Error> {
        let key = convert::service_key(vs);
        self.get(Call::GetVirtualServer(vs), &Command::GetService(Some(&key)), parse_service)
    }

    /// Sets the counters of one virtual server and its real servers, or of all, to zero.
    pub fn zero(&mut self, vs: Option<VirtualServerId>) -> Result<(), Error> {
        let key = vs.map(convert::service_key);
        self.execute_one(Call::Zero(vs), &Command::Zero(key.as_ref()))
    }

    /// Connection timeouts of the network namespace.
    pub fn timeouts(&mut self) -> Result<Timeouts, Error> {
        self.get(Call::GetTimeouts, &Command::GetConfig, parse_timeouts)
    }

    /// Sets those connection timeouts that are not 0.
    pub fn set_timeouts(&mut self, timeouts: &Timeouts) -> Result<(), Error> {
        self.execute_one(Call::SetTimeouts, &Command::SetConfig(timeouts))
    }

    /// Tells whether the kernel has a scheduler, whose module it loads if need be. `lblc` and `lblcr` must be loaded
    /// already, or this process have `CAP_SYS_MODULE`; otherwise the kernel counts as one that does not have them
    /// (see [`load_scheduler`](crate::load_scheduler)).
    ///
    /// It tries to add an impossible virtual server: the kernel looks for the scheduler first
    /// (`ip_vs_add_service`) and refuses the prefix length next, before anything exists. The address is from
    /// the prefix that every node discards (RFC 6666).
    pub fn has_scheduler(&mut self, scheduler: Scheduler) -> Result<bool, Error> {
        autoload::load_scheduler(scheduler);
        if autoload::must_be_loaded(scheduler) {
            return Ok(false);
        }
        let addr = IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1));
        let key =
            ServiceKey::Address { addr, protocol: u16::from(lb_types::Protocol::Tcp.number()), port: 1 };
        let impossible = Service { netmask: 0, ..Service::new(key, scheduler) };
        let call = Call::FindScheduler(scheduler);
        match self.execute_one(call, &Command::NewService(&impossible)) {
            Err(error) if error.errno() == Some(libc::EINVAL) => Ok(true),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
            // No known kernel accepts it; if one does, it goes again.
            Ok(()) => self.execute_one(call, &Command::DelService(&key)).map(|()| true),
        }
    }

    /// Version of IPVS and size of the connection table.
    pub fn info(&mut self) -> Result<Info, Error> {
        self.get(Call::GetInfo, &Command::GetInfo, parse_info)
    }

    /// The running sync daemons.
    pub fn dump_daemons(&mut self) -> Result<Vec<Daemon>, Error> {
        let daemons = self.dump(Call::DumpDaemons, &Command::GetDaemon, parse_daemon)?;
        Ok(daemons.into_iter().flatten().collect())
    }

    /// Starts a sync daemon.
    pub fn start_daemon(&mut self, daemon: &Daemon) -> Result<(), Error> {
        self.execute_one(Call::StartDaemon(daemon.state), &Command::NewDaemon(daemon))
    }

    /// Stops a sync daemon.
    pub fn stop_daemon(&mut self, state: DaemonState) -> Result<(), Error> {
        self.execute_one(Call::StopDaemon(state), &Command::DelDaemon(state))
    }

    /// Reads every message of a dump; `None` stands for those that `parse` could not read.
    fn dump<T>(
        &mut self,
        call: Call,
        command: &Command<'_>,
        parse: impl Fn(&Message<'_>) -> Option<T>,
    ) -> Result<Vec<Option<T>>, Error> {
        self.with_family(|socket, family| {
            socket.dump(&command.request(family), |message| Some(parse(message)))
        })
        .map_err(|source| Error::new(call, source))
    }

    /// Reads the one message with which the kernel answers.
    fn get<T>(
        &mut self,
        call: Call,
        command: &Command<'_>,
        parse: impl Fn(&Message<'_>) -> Option<T>,
    ) -> Result<T, Error> {
        let answers = self
            .with_family(|socket, family| socket.request(&command.request(family), &parse))
            .map_err(|source| Error::new(call, source))?;
        answers.into_iter().next().ok_or(Error::Incomplete { call })
    }

    /// Executes a write that is not an [`IpvsOp`].
    fn execute_one(&mut self, call: Call, command: &Command<'_>) -> Result<(), Error> {
        self.with_family(|socket, family| {
            let mut batch = Batch::new();
            command.push(&mut batch, family);
            let outcome = socket.execute(&mut batch)?;
            match outcome.failures.into_iter().next() {
                Some(failure) => Err(failure.into()),
                None if outcome.replies_lost => Err(netlink::Error::RepliesLost),
                None => Ok(()),
            }
        })
        .map_err(|source| Error::new(call, source))
    }

    /// Calls `exchange`, and once more if the number of the family turns out to be out of date.
    fn with_family<T>(
        &mut self,
        exchange: impl Fn(&mut RequestSocket, u16) -> Result<T, netlink::Error>,
    ) -> Result<T, netlink::Error> {
        match exchange(&mut self.socket, self.family) {
            Err(e) if e.errno() == Some(libc::ENOENT) && self.family_changed()? => {
                exchange(&mut self.socket, self.family)
            }
            result => result,
        }
    }

    /// Resolves the family again and tells whether its number has changed.
    fn family_changed(&mut self) -> Result<bool, netlink::Error> {
        let family = resolve(&mut self.socket)?;
        Ok(std::mem::replace(&mut self.family, family) != family)
    }

    /// Executes the operations `indices` of `ops` and adds their failures to the report.
    fn execute(
        &mut self,
        ops: &[IpvsOp],
        indices: impl Iterator<Item = usize>,
        report: &mut BatchReport,
    ) -> Result<(), netlink::Error> {
        self.batch.clear();
        let mut pending = Vec::new();
        for index in indices {
            match push_op(&mut self.batch, self.family, &ops[index]) {
                Ok(()) => pending.push(index),
                Err(errno) => report.failed.push(refused(ops, index, errno)),
            }
            if self.socket.is_datagram_full(&self.batch) {
                self.send(ops, &mut pending, report)?;
            }
        }
        self.send(ops, &mut pending, report)
    }

    /// Executes the batch, whose messages are the operations `pending`, and empties both.
    ///
    /// It sends one datagram at a time, so that the same 128 KiB hold everything that is encoded: a larger
    /// buffer would have to grow first, and costs the kernel more in pages than it saves.
    fn send(
        &mut self,
        ops: &[IpvsOp],
        pending: &mut Vec<usize>,
        report: &mut BatchReport,
    ) -> Result<(), netlink::Error> {
        let BatchOutcome { failures, replies_lost } = self.socket.execute(&mut self.batch)?;
        report.failed.extend(failures.iter().map(|f| refused(ops, pending[f.index], f.errno)));
        report.replies_lost |= replies_lost;
        self.batch.clear();
        pending.clear();
        Ok(())
    }

    /// Does what `apply` promises, with the errors of the socket.
    fn apply_ops(&mut self, ops: &[IpvsOp]) -> Result<BatchReport, netlink::Error> {
        let mut report = BatchReport::default();
        self.execute(ops, 0..ops.len(), &mut report)?;
        // A message to an unknown family gets ENOENT, too.
        let unknown_family = |f: &FailedOp| f.errno == libc::ENOENT;
        if report.failed.iter().any(unknown_family) && self.family_changed()? {
            let (again, failed) =
                std::mem::take(&mut report.failed).into_iter().partition::<Vec<_>, _>(unknown_family);
            report.failed = failed;
            self.execute(ops, again.into_iter().map(|f| f.index), &mut report)?;
        }
        report.failed.sort_by_key(|f| f.index);
        Ok(report)
    }
}

fn refused(ops: &[IpvsOp], index: usize, errno: i32) -> FailedOp {
    FailedOp { index, errno, reason: explain_ipvs(&ops[index], errno) }
}

/// Number of the family. A kernel that does not know it is made to load the module.
fn resolve(socket: &mut RequestSocket) -> Result<u16, netlink::Error> {
    let mut family = genl::resolve(socket, uapi::FAMILY_NAME);
    if matches!(family, Err(netlink::Error::FamilyNotFound { .. })) {
        // If that fails, there is still no such family, and its error says what to do.
        let _ = autoload::load_ip_vs();
        family = genl::resolve(socket, uapi::FAMILY_NAME);
    }
    Ok(family?.id)
}

/// Appends an operation, or returns the error number with which the client refuses it without asking the
/// kernel.
fn push_op(batch: &mut Batch, family: u16, op: &IpvsOp) -> Result<(), i32> {
    let key = convert::service_key(op.virtual_server());
    match op {
        IpvsOp::AddVirtualServer { vs, settings } => {
            let service = convert::service(*vs, settings).ok_or(libc::EINVAL)?;
            Command::NewService(&service).push(batch, family);
        }
        IpvsOp::SetVirtualServer { vs, settings } => {
            let service = convert::service(*vs, settings).ok_or(libc::EINVAL)?;
            Command::SetService(&service).push(batch, family);
        }
        IpvsOp::DeleteVirtualServer { .. } => Command::DelService(&key).push(batch, family),
        IpvsOp::AddRealServer { rs, settings, .. } => {
            Command::NewDest(&key, &convert::destination(*rs, settings)).push(batch, family);
        }
        IpvsOp::SetRealServer { rs, settings, .. } => {
            Command::SetDest(&key, &convert::destination(*rs, settings)).push(batch, family);
        }
        IpvsOp::DeleteRealServer { rs, .. } => {
            Command::DelDest(&key, &convert::destination_key(*rs)).push(batch, family);
        }
    }
    Ok(())
}

/// Repeats a dump while it contains a key twice; returns the last one sorted by key, without repetitions.
fn without_repetitions<T, K: Ord>(
    mut dump: impl FnMut() -> Result<Vec<T>, Error>,
    key: impl Fn(&T) -> Option<K>,
) -> Result<Vec<T>, Error> {
    let mut attempt = 1;
    loop {
        let mut items = dump()?;
        let total = items.len();
        items.sort_by_key(&key);
        items.dedup_by(|b, a| key(a).is_some_and(|key_a| key(b) == Some(key_a)));
        if items.len() == total || attempt == DUMP_ATTEMPTS {
            return Ok(items);
        }
        attempt += 1;
    }
}

impl IpvsTable for IpvsClient {
    fn dumps_interrupted(&self) -> u64 {
        self.counters().dumps_interrupted
    }

    fn has_scheduler(&mut self, scheduler: Scheduler) -> Result<bool, TableError> {
        Ok(IpvsClient::has_scheduler(self, scheduler)?)
    }

    fn dump_virtual_servers(&mut self) -> Result<VirtualServerDump, TableError> {
        let parse = |message: &Message<'_>| convert::virtual_server(&parse_service(message)?);
        let entries = without_repetitions(
            || self.dump(Call::DumpVirtualServers, &Command::GetService(None), parse),
            |entry| entry.map(|(vs, _)| vs),
        )?;
        let total = entries.len();
        let virtual_servers: Vec<_> = entries.into_iter().flatten().collect();
        Ok(VirtualServerDump { unsupported: total - virtual_servers.len(), virtual_servers })
    }

    fn dump_traffic(&mut self) -> Result<Vec<(VirtualServerId, TrafficCounters)>, TableError> {
        let parse = |message: &Message<'_>| convert::virtual_server_traffic(&parse_service(message)?);
        let entries = without_repetitions(
            || self.dump(Call::DumpVirtualServers, &Command::GetService(None), parse),
            |entry| entry.map(|(vs, _)| vs),
        )?;
        Ok(entries.into_iter().flatten().collect())
    }

    fn dump_real_servers(&mut self, vs: VirtualServerId) -> Result<Vec<ObservedRealServer>, TableError> {
        let key = convert::service_key(vs);
        let parse = |message: &Message<'_>| convert::real_server(&parse_destination(message, &key)?);
        let entries = without_repetitions(
            || self.dump(Call::DumpRealServers(vs), &Command::GetDest(&key), parse),
            |entry| entry.map(|rs| rs.id),
        )?;
        Ok(entries.into_iter().flatten().collect())
    }

    fn apply(&mut self, ops: &[IpvsOp]) -> Result<BatchReport, TableError> {
        if ops.is_empty() {
            return Ok(BatchReport::default());
        }
        let call = Call::Apply { operations: ops.len() };
        self.apply_ops(ops).map_err(|source| Error::new(call, source).into())
    }
}
