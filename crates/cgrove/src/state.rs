//! What outlives the process, and the thread that writes it: the document in force, held removals, whose permission
//! has counted, approvals. What cannot be read or written holds removals; nothing else waits for a disk.

mod keeper;
mod known;
mod memory;
mod say;

pub(crate) use keeper::{Change, Keeper, Key, LAST_GOOD, Report};
pub(crate) use known::{Known, approve, given};
pub(crate) use memory::Memory;
pub(crate) use say::run as say;
