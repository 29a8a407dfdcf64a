//! Start of a guest: the emulator's command line and its process.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result};

use super::PORT;
use crate::{kernels::Kernel, paths};

/// Parameters of the kernel. loglevel 5 shows warnings on the console and hides the boot; panic=-1 with
/// `-no-reboot` ends the emulator; the emulated timestamp counter is steady, but an emulated processor that
/// waits for a real one looks unsteady to the kernel's watchdogs; self-tests of ciphers are a quarter of the
/// boot.
const PARAMETERS: &str = "console=ttyS0 loglevel=5 panic=-1 mitigations=off net.ifnames=0 \
    tsc=reliable clocksource=tsc no_timer_check random.trust_cpu=on watchdog_thresh=30 \
    rcupdate.rcu_cpu_stall_timeout=60 cryptomgr.notests \
    initcall_blacklist=crypto_kdf108_init,init_encrypted,jent_mod_init";

/// Clock of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// It follows the host's; there are two processors.
    Host,
    /// Every instruction takes 2 ns, whatever the host does; there is one processor. Idle time follows the host.
    Instructions,
}

impl Clock {
    /// Arguments of the emulator. Where instructions are counted, the processor claims no fast string instructions, so
    /// that the kernel does not copy byte by byte.
    const fn arguments(self) -> &'static [&'static str] {
        match self {
            Clock::Host => &["-accel", "tcg,thread=multi,tb-size=512", "-smp", "2", "-cpu", "max"],
            Clock::Instructions => &[
                "-accel",
                "tcg,thread=single,tb-size=512",
                "-icount",
                "shift=1",
                "-smp",
                "1",
                "-cpu",
                "max,erms=off,fsrm=off",
            ],
        }
    }

    /// Factor by which a guest may take longer for what it does by its own clock.
    pub const fn slowness(self) -> u32 {
        match self {
            Clock::Host => 1,
            Clock::Instructions => 5,
        }
    }

    /// Parameters of the kernel. QEMU counts each step of a repeated string instruction, which no processor does, so
    /// memory is not cleared when it is allocated.
    const fn parameters(self) -> &'static str {
        match self {
            Clock::Host => "",
            Clock::Instructions => " init_on_alloc=0",
        }
    }
}

/// Parts of a guest.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Kernel to boot.
    pub kernel: Kernel,
    /// First file system.
    pub initramfs: PathBuf,
    /// Memory in MiB.
    pub memory: u32,
    /// Clock of the guest.
    pub clock: Clock,
    /// File for the output of the serial console.
    pub console: PathBuf,
}

/// A running emulator; dropping it ends it.
#[derive(Debug)]
pub struct Emulator(Child);

impl Machine {
    /// Starts the emulator; the guest's port is connected to the listener at `socket`.
    pub fn start(&self, socket: &Path) -> Result<Emulator> {
        let log =
            File::create(&self.console).with_context(|| format!("creating {}", self.console.display()))?;
        let mut command = self.command(&format!("{PARAMETERS}{}", self.clock.parameters()));
        command
            .args(["-display", "none", "-monitor", "none", "-serial"])
            .arg(format!("file:{}", self.console.display()))
            .args(["-device", "virtio-serial-pci", "-chardev"])
            .arg(format!("socket,id=port,path={}", socket.display()))
            .args(["-device", &format!("virtserialport,chardev=port,name={PORT}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn().context("starting qemu-system-x86_64 (run `cargo xtask setup`)")?;
        Ok(Emulator(child))
    }

    /// Boots with the terminal as the console and waits until the guest powers off.
    pub fn run_shell(&self) -> Result<()> {
        let parameters = format!("{PARAMETERS} kube_ipvs.shell");
        crate::command::run(self.command(&parameters).args(["-nographic", "-serial", "mon:stdio"]))
    }

    fn command(&self, parameters: &str) -> Command {
        let program = paths::find_program("qemu-system-x86_64");
        let mut command = Command::new(program.unwrap_or_else(|| "qemu-system-x86_64".into()));
        command
            .args(self.clock.arguments())
            .args(["-m", &self.memory.to_string(), "-no-reboot", "-nodefaults", "-nic", "none"])
            .arg("-kernel")
            .arg(self.kernel.vmlinuz())
            .arg("-initrd")
            .arg(&self.initramfs)
            .args(["-append", parameters]);
        command
    }
}

impl Emulator {
    /// Exit status, if it has ended.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().ok().flatten()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
