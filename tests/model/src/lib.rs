//! A model of the kernel's rules for cgroups, and the means to hold it against the kernel: the same random actions on
//! both (`lockstep`). On the model, random histories of documents, drift and crashes are played by the ten thousand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test's tools: a surprise is a failure")]

pub mod dice;
pub mod execute;
pub mod lockstep;
pub mod model;
pub mod real;

use cgrove_core::ids::GroupPath;
pub use nix::errno::Errno;

/// A process of the tests', by its place among them.
pub type Process = usize;

/// One hierarchy of cgroups from some group downwards: the kernel's, or the model's. Errors are the kernel's own.
pub trait Cgroups {
    fn mkdir(&mut self, group: &GroupPath) -> Result<(), Errno>;
    fn rmdir(&mut self, group: &GroupPath) -> Result<(), Errno>;
    fn write(&mut self, group: &GroupPath, file: &str, value: &str) -> Result<(), Errno>;
    fn read(&self, group: &GroupPath, file: &str) -> Result<String, Errno>;
    /// Moves a process, from wherever it is, into a group.
    fn attach(&mut self, process: Process, group: &GroupPath) -> Result<(), Errno>;
    /// Moves it out of all of them.
    fn leave(&mut self, process: Process);
    /// A process of the group begins another.
    fn fork(&mut self, process: Process) -> Result<Process, Errno>;
    fn kill(&mut self, process: Process);
    /// Every group, the top included, with who is in it.
    fn groups(&self) -> Vec<(GroupPath, Vec<Process>)>;
    /// The tracked files that the group has.
    fn files(&self, group: &GroupPath) -> Vec<&'static str>;
}
