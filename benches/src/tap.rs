//! A recording of everything that goes over netlink in a network namespace, made by the kernel (nlmon).
//!
//! It shows what was really sent, in which pieces, by whomever and by whichever means.

use std::{
    collections::BTreeSet,
    io,
    mem::MaybeUninit,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use ipvs::codec::uapi::cmd;
use rustix::net::{netdevice, sockopt};
use serde::Serialize;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::node::{Node, TAP};

/// Buffer in bytes for datagrams that the recording thread has not fetched yet.
const BUFFER_BYTES: usize = 512 << 20;

/// Size in bytes that no datagram reaches (the product's are 128 KiB at most).
const LARGEST_DATAGRAM: usize = 1 << 20;

/// Silence after which a recording counts as complete.
const SILENCE: Duration = Duration::from_millis(200);

/// Flag NLM_F_REQUEST.
const REQUEST: u16 = 1;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Message type NLMSG_ERROR, which is also an acknowledgement.
const ERROR: u16 = 2;
/// First message of an nftables transaction (NFNL_MSG_BATCH_BEGIN).
const BATCH_BEGIN: u16 = 16;
/// First family number after those of the controller and the like.
const FIRST_GENERIC_FAMILY: u16 = 17;

/// One datagram as somebody sent it to the kernel, or the kernel to somebody.
#[derive(Debug, Clone)]
pub struct Datagram {
    /// Protocol: NETLINK_ROUTE and so on.
    pub protocol: i32,
    /// Messages, one behind the other.
    pub bytes: Vec<u8>,
}

impl Datagram {
    /// Type, flags and first byte of the payload of each message.
    pub fn messages(&self) -> impl Iterator<Item = (u16, u16, u8)> + '_ {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let header = rest.get(..HEADER)?;
            let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let kind = u16::from_ne_bytes([header[4], header[5]]);
            let flags = u16::from_ne_bytes([header[6], header[7]]);
            let first = rest.get(HEADER).copied().unwrap_or(0);
            rest = rest.get(length.max(HEADER).next_multiple_of(4)..).unwrap_or_default();
            Some((kind, flags, first))
        })
    }

    /// Protocol and first messages, for errors.
    pub fn summary(&self) -> String {
        let kinds: Vec<_> = self.messages().map(|(kind, ..)| kind).take(8).collect();
        format!("protocol {}, {} bytes, messages of types {kinds:?}", self.protocol, self.bytes.len())
    }

    /// Protocol and header of the message that it refuses, if it is such an answer.
    fn refused(&self) -> Option<(i32, Vec<u8>)> {
        let (kind, ..) = self.messages().next()?;
        let errno = self.bytes.get(HEADER..HEADER + 4)?;
        let header = self.bytes.get(HEADER + 4..2 * HEADER + 4)?;
        (kind == ERROR && errno.iter().any(|byte| *byte != 0)).then(|| (self.protocol, header.to_vec()))
    }

    /// Tells whether it went to the kernel.
    fn is_request(&self) -> bool {
        self.messages().next().is_some_and(|(_, flags, _)| flags & REQUEST != 0)
    }

    /// Tells whether it asks the kernel to change something.
    pub fn is_write(&self) -> bool {
        let Some((kind, _, command)) = self.messages().next() else { return false };
        self.is_request()
            && match self.protocol {
                libc::NETLINK_ROUTE => kind % 4 != 2, // RTM_NEW*, DEL*, GET*, SET*
                libc::NETLINK_NETFILTER => kind == BATCH_BEGIN,
                libc::NETLINK_GENERIC => kind >= FIRST_GENERIC_FAMILY && is_ipvs_write(command),
                _ => false,
            }
    }
}

fn is_ipvs_write(command: u8) -> bool {
    let reads = [cmd::GET_SERVICE, cmd::GET_DEST, cmd::GET_DAEMON, cmd::GET_CONFIG, cmd::GET_INFO];
    !reads.contains(&command)
}

/// A finished recording.
#[derive(Debug, Default)]
pub struct Recording {
    /// All datagrams, in order.
    pub datagrams: Vec<Datagram>,
}

/// Counts of a recording.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Datagrams sent to the kernel, one for each `send` call on a netlink socket.
    pub sends: usize,
    /// Messages in them.
    pub messages: usize,
    /// Datagrams that change something.
    pub write_sends: usize,
    /// Messages in those.
    pub write_messages: usize,
    /// Bytes in those.
    pub write_bytes: usize,
    /// Datagrams from the kernel.
    pub replies: usize,
}

impl Recording {
    /// Counts the datagrams and messages.
    pub fn traffic(&self) -> Traffic {
        let mut traffic = Traffic::default();
        for datagram in &self.datagrams {
            let messages = datagram.messages().count();
            if !datagram.is_request() {
                traffic.replies += 1;
                continue;
            }
            traffic.sends += 1;
            traffic.messages += messages;
            if datagram.is_write() {
                traffic.write_sends += 1;
                traffic.write_messages += messages;
                traffic.write_bytes += datagram.bytes.len();
            }
        }
        traffic
    }

    /// Keeps datagrams that changed something. Writes that the kernel refused are left out: kube-ipvs asks some questions
    /// in that way.
    pub fn into_writes(self) -> Vec<Datagram> {
        let refused: BTreeSet<_> = self.datagrams.iter().filter_map(Datagram::refused).collect();
        let is_refused = |datagram: &Datagram| {
            let header = datagram.bytes.get(..HEADER).unwrap_or_default();
            datagram.messages().count() == 1 && refused.contains(&(datagram.protocol, header.to_vec()))
        };
        self.datagrams.into_iter().filter(|datagram| datagram.is_write() && !is_refused(datagram)).collect()
    }
}

/// A recording under way.
#[derive(Debug)]
pub struct Tap {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Recording>>,
}

impl Tap {
    /// Starts to record on a node that has a tap.
    pub fn start(node: &Node) -> Result<Tap> {
        let socket = node.ns.enter(open)?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = thread::spawn(move || record(&socket, &seen));
        Ok(Tap { stop, thread })
    }

    /// Ends the recording when nothing more comes.
    pub fn finish(self) -> Result<Recording> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the recording thread died"))?
    }
}

/// Opens a socket that sees what passes the tap and nothing else.
fn open() -> Result<Socket> {
    const EVERYTHING: u16 = libc::ETH_P_ALL as u16;
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, None).context("opening a packet socket")?;
    sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES).context("SO_RCVBUFFORCE")?;
    socket.set_read_timeout(Some(SILENCE))?;
    let index = netdevice::name_to_index(&socket, TAP).context("the tap's number")?;
    #[expect(unsafe_code, reason = "no safe wrapper knows addresses of packet sockets")]
    // SAFETY: the storage is zeroed and large enough for any address; exactly a `sockaddr_ll` is written into
    // it.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let address = storage.cast::<libc::sockaddr_ll>();
            (*address).sll_family = libc::AF_PACKET as u16;
            (*address).sll_protocol = EVERYTHING.to_be();
            (*address).sll_ifindex = index.cast_signed();
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    }?;
    socket.bind(&address).context("listening at the tap")?;
    Ok(socket)
}

fn record(socket: &Socket, stop: &AtomicBool) -> Result<Recording> {
    let mut buffer = vec![MaybeUninit::uninit(); LARGEST_DATAGRAM];
    let mut recording = Recording::default();
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                ensure!(length < LARGEST_DATAGRAM, "a datagram of more than {LARGEST_DATAGRAM} bytes");
                recording
                    .datagrams
                    .push(Datagram { protocol: protocol_of(&from)?, bytes: initialised(&buffer[..length]) });
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if stop.load(Ordering::Relaxed) {
                    return Ok(recording);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("recording"),
        }
    }
}

fn initialised(buffer: &[MaybeUninit<u8>]) -> Vec<u8> {
    #[expect(unsafe_code, reason = "the kernel has written these bytes")]
    // SAFETY: the caller passes exactly the part of the buffer that recv_from reported as filled.
    let byte = |byte: &MaybeUninit<u8>| unsafe { byte.assume_init() };
    buffer.iter().map(byte).collect()
}

/// Reads the netlink protocol, which nlmon puts where network packets have their type.
fn protocol_of(from: &SockAddr) -> Result<i32> {
    ensure!(from.len() as usize >= size_of::<libc::sockaddr_ll>(), "not an address of a packet socket");
    #[expect(unsafe_code, reason = "no safe wrapper knows addresses of packet sockets")]
    // SAFETY: the storage behind a SockAddr is large enough and aligned for every address type.
    let address = unsafe { &*from.as_ptr().cast::<libc::sockaddr_ll>() };
    Ok(i32::from(u16::from_be(address.sll_protocol)))
}

#[cfg(test)]
mod tests {
    use super::{Datagram, Recording, Traffic};

    fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (16 + payload.len() as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn writes_reads_and_replies_are_told_apart() {
        let datagram = |protocol, bytes: Vec<Vec<u8>>| Datagram { protocol, bytes: bytes.concat() };
        let recording = Recording {
            datagrams: vec![
                datagram(
                    libc::NETLINK_GENERIC,
                    vec![message(37, 1, &[1, 1, 0, 0]), message(37, 5, &[5, 1, 0])],
                ),
                datagram(libc::NETLINK_GENERIC, vec![message(37, 0x301, &[4, 1, 0, 0])]),
                datagram(libc::NETLINK_GENERIC, vec![message(16, 5, &[3, 1, 0, 0])]),
                datagram(libc::NETLINK_GENERIC, vec![message(2, 0x100, &[0; 20])]),
                datagram(libc::NETLINK_ROUTE, vec![message(24, 0x605, &[2; 12])]),
                datagram(libc::NETLINK_ROUTE, vec![message(26, 0x301, &[2; 12])]),
                datagram(libc::NETLINK_NETFILTER, vec![message(16, 1, &[0; 4]), message(17, 1, &[0; 4])]),
            ],
        };
        let traffic = recording.traffic();
        assert_eq!((traffic.sends, traffic.messages, traffic.replies), (6, 8, 1));
        assert_eq!(
            Traffic { write_bytes: 0, ..traffic },
            Traffic { sends: 6, messages: 8, write_sends: 3, write_messages: 5, write_bytes: 0, replies: 1 }
        );
        assert_eq!(recording.into_writes().len(), 3);
    }

    #[test]
    fn writes_that_the_kernel_refuses_are_left_out() {
        let request = |number| message(37, 5, &[1, 1, 0, 0, number]);
        let answer = |errno: i32, request: &[u8]| {
            let mut bytes = errno.to_ne_bytes().to_vec();
            bytes.extend(&request[..16]);
            message(2, 0, &bytes)
        };
        let (mut asked, done) = (request(1), request(2));
        asked[8] = 7;
        let answers = [answer(-22, &asked), answer(0, &done)];
        let all = [asked, done].into_iter().chain(answers);
        let datagrams = all.map(|bytes| Datagram { protocol: libc::NETLINK_GENERIC, bytes }).collect();
        let writes = Recording { datagrams }.into_writes();
        assert_eq!(writes.iter().map(|write| write.bytes[20]).collect::<Vec<_>>(), [2]);
    }
}
