//! Where slots are kept: always the ring in memory, and Redis if configured.

mod link;
mod packing;
pub(crate) mod redis;
pub(crate) mod ring;
