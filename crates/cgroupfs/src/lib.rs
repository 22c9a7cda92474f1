//! cgrove's kernel half, in the order in which it is used. Blocking; the daemon runs it on threads of its own.

mod disks;
pub mod doing;
mod fault;
mod file;
pub mod host;
pub mod outside;
pub mod paths;

pub mod mark;
pub mod notices;
pub mod observe;
pub mod survey;

pub mod apply;
mod drain;
mod slow;

pub mod view;
pub mod walk;

pub mod attach;
pub mod pidfile;
pub mod procs;

pub mod sample;

pub mod events;
pub mod lock;

pub use fault::Fault;
pub use file::{Standing, proc_dir};
