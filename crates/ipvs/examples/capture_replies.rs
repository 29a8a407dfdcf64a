//! Prints the running kernel's replies about a fixed set of objects, one message a line as `name
//! hexadecimal`: the files under tests/replies/captures. Needs root and an empty network namespace with
//! loopback up.
//!
//! `cargo xtask guest run --kernel 6.12 --file target/debug/examples/capture_replies:/capture -- sh -c
//! 'modprobe ip_vs; ip link set lo up; /capture'`

use std::{
    error::Error,
    io::Write as _,
    net::{IpAddr, TcpListener, TcpStream},
    time::Duration,
};

use ipvs::codec::{
    Command, Daemon, DaemonState, Destination, DestinationKey, Service, ServiceKey, Timeouts, Tunnel, uapi,
};
use lb_types::{IpFamily, Scheduler};
use netlink::{Batch, Buffers, Message, Protocol, RequestSocket, genl};

struct Capture {
    socket: RequestSocket,
    family: u16,
}

impl Capture {
    fn write(&mut self, command: Command<'_>) -> Result<(), Box<dyn Error>> {
        let mut batch = Batch::new();
        command.push(&mut batch, self.family);
        match self.socket.execute(&mut batch)?.failures.into_iter().next() {
            Some(failure) => Err(format!("{command:?}: errno {}", failure.errno).into()),
            None => Ok(()),
        }
    }

    fn dump(&mut self, name: &str, command: Command<'_>) -> Result<(), Box<dyn Error>> {
        print(name, self.socket.dump(&command.request(self.family), |message| Some(bytes(message)))?);
        Ok(())
    }

    fn get(&mut self, name: &str, command: Command<'_>) -> Result<(), Box<dyn Error>> {
        print(name, self.socket.request(&command.request(self.family), |message| Some(bytes(message)))?);
        Ok(())
    }

    fn virtual_server(
        &mut self,
        name: &str,
        service: &Service,
        reals: &[Destination],
    ) -> Result<(), Box<dyn Error>> {
        self.write(Command::NewService(service))?;
        for real in reals {
            self.write(Command::NewDest(&service.key, real))?;
        }
        self.get(&format!("service-{name}"), Command::GetService(Some(&service.key)))?;
        self.dump(&format!("destination-{name}"), Command::GetDest(&service.key))
    }
}

fn print(name: &str, messages: Vec<Vec<u8>>) {
    for message in messages {
        let hexadecimal: String = message.iter().map(|byte| format!("{byte:02x}")).collect();
        println!("{name} {hexadecimal}");
    }
}

/// The message as it came, but with sequence number and port 0.
fn bytes(message: &Message<'_>) -> Vec<u8> {
    let len = 16 + message.payload.len() as u32;
    let mut bytes = len.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&message.kind.to_ne_bytes());
    bytes.extend_from_slice(&message.flags.to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(message.payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn real(addr: &str, port: u16) -> Result<Destination, Box<dyn Error>> {
    Ok(Destination::new(DestinationKey { addr: addr.parse()?, port }))
}

fn address(addr: &str, protocol: u16, port: u16) -> Result<ServiceKey, Box<dyn Error>> {
    Ok(ServiceKey::Address { addr: addr.parse::<IpAddr>()?, protocol, port })
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut socket = RequestSocket::open(Protocol::GENERIC, &Buffers::default())?;
    let family = genl::resolve(&mut socket, uapi::FAMILY_NAME)?.id;
    let mut capture = Capture { socket, family };
    settings(&mut capture)?;

    let quiesced =
        Destination { weight: 0, upper_threshold: 20, lower_threshold: 10, ..real("10.0.0.2", 8080)? };
    let plain = Service::new(address("10.96.0.1", 6, 80)?, Scheduler::RR);
    capture.virtual_server("plain", &plain, &[real("10.0.0.1", 8080)?, quiesced])?;

    let persistent = Service {
        flags: 0x1d,
        timeout: 10_800,
        netmask: 64,
        ..Service::new(address("fd00:96::1", 17, 53)?, Scheduler::MH)
    };
    let direct = Destination { forwarding: uapi::fwd::DROUTE, weight: 2, ..real("fd00::1", 53)? };
    capture.virtual_server("persistent-v6", &persistent, &[direct])?;

    let key = ServiceKey::FwMark { family: IpFamily::V4, mark: 7 };
    let marked = Service { flags: 1, timeout: 60, netmask: 0xffff_ff00, ..Service::new(key, Scheduler::SH) };
    let tunnel = Tunnel { kind: 1, port: 6080, flags: 1 };
    let tunnel = Destination { forwarding: uapi::fwd::TUNNEL, weight: 3, tunnel, ..real("fd00::2", 80)? };
    capture.virtual_server("fwmark", &marked, &[tunnel])?;

    let any_port =
        Service { flags: 1, timeout: 60, ..Service::new(address("10.96.0.2", 6, 0)?, Scheduler::WRR) };
    capture.virtual_server("port-0", &any_port, &[real("10.0.0.3", 0)?])?;
    traffic(&mut capture)
}

fn settings(capture: &mut Capture) -> Result<(), Box<dyn Error>> {
    capture.write(Command::SetConfig(&Timeouts { tcp: 7200, tcp_fin: 0, udp: 0 }))?;
    capture.get("timeouts", Command::GetConfig)?;
    capture.get("info", Command::GetInfo)?;
    let daemon = Daemon {
        state: DaemonState::Backup,
        interface: "lo".to_owned(),
        sync_id: 9,
        max_length: 1400,
        group: Some("224.0.0.99".parse()?),
        port: 8849,
        ttl: 2,
    };
    capture.write(Command::NewDaemon(&daemon))?;
    capture.dump("daemon", Command::GetDaemon)?;
    capture.write(Command::DelDaemon(DaemonState::Backup))
}

/// Makes one open and one closed connection of 5 bytes each; the kernel has their statistics after 5 s.
fn traffic(capture: &mut Capture) -> Result<(), Box<dyn Error>> {
    let busy = Service::new(address("127.0.0.2", 6, 80)?, Scheduler::RR);
    capture.write(Command::NewService(&busy))?;
    capture.write(Command::NewDest(&busy.key, &real("127.0.0.3", 8080)?))?;
    let listener = TcpListener::bind("127.0.0.3:8080")?;
    let mut open = TcpStream::connect("127.0.0.2:80")?;
    open.write_all(b"hello")?;
    let _server = listener.accept()?;
    let mut closed = TcpStream::connect("127.0.0.2:80")?;
    closed.write_all(b"hello")?;
    drop(closed);
    drop(listener.accept()?);
    std::thread::sleep(Duration::from_secs(5));
    capture.get("service-busy", Command::GetService(Some(&busy.key)))?;
    capture.dump("destination-busy", Command::GetDest(&busy.key))
}
