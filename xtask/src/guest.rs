//! Guests: emulated machines with stock Debian kernels that run programs of the host.
//!
//! Reading order: [`image`] (the contents), [`qemu`] (the machine), [`protocol`] (the messages between the
//! two sides), [`agent`] (the side inside), [`session`] (the side outside), [`cli`].

pub mod agent;
pub mod cli;
mod cpio;
pub mod image;
mod kmsg;
mod processes;
pub mod protocol;
pub mod qemu;
pub mod session;

use std::{fs, path::PathBuf};

use anyhow::Result;

use crate::{kernels::Kernel, paths};
use image::Image;
use qemu::{Clock, Machine};
use session::Session;

pub use kmsg::is_bug;

/// Name of the virtio port between the two sides.
const PORT: &str = "kube-ipvs.control";

/// Memory of a guest in MiB, by default.
pub const MEMORY_MIB: u32 = 3072;

/// Writes the image and boots it. `what` names the run's files in the output folder.
pub fn boot(kernel: &Kernel, image: &Image, memory: u32, what: &str) -> Result<Session> {
    start(machine(kernel, image, memory, what)?)
}

/// Does the same with another clock.
pub fn boot_by(clock: Clock, kernel: &Kernel, image: &Image, memory: u32, what: &str) -> Result<Session> {
    start(Machine { clock, ..machine(kernel, image, memory, what)? })
}

fn start(machine: Machine) -> Result<Session> {
    let initramfs = machine.initramfs.clone();
    let session = Session::boot(machine);
    // The emulator has read the file by now, and it is large.
    let _ = fs::remove_file(initramfs);
    session
}

fn machine(kernel: &Kernel, image: &Image, memory: u32, what: &str) -> Result<Machine> {
    let initramfs = output(kernel, what, "initramfs")?;
    image.write(&initramfs)?;
    let console = output(kernel, what, "log")?;
    Ok(Machine { kernel: kernel.clone(), initramfs, memory, clock: Clock::Host, console })
}

/// File that holds the console of a run.
pub fn console_log(kernel: &Kernel, what: &str) -> Result<PathBuf> {
    output(kernel, what, "log")
}

fn output(kernel: &Kernel, what: &str, extension: &str) -> Result<PathBuf> {
    Ok(paths::guest_output()?.join(format!("{}-{what}.{extension}", kernel.series)))
}
