//! Where slots are kept: always the ring in memory, and Redis if configured.

mod limited;
mod link;
mod packing;
pub(crate) mod redis;
pub(crate) mod ring;
pub(crate) mod writer;
