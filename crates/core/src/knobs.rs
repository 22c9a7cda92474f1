//! The tunables: one table of what exists, typed values, and what they become in kernel files.

mod convert;
mod lists;
mod resolve;
mod table;
mod value;
mod want;

pub use convert::{
    blkio_to_io_weight, io_to_blkio_weight, shares_to_weight, shares_to_weight_runc, weight_to_shares,
    weight_to_shares_runc,
};
pub use lists::{DevId, IdSet};
pub use resolve::{CpuConversion, FileWant, Resolved, resolve_v1};
pub use table::{KNOBS, Kind, Knob, Side, Unset, find, witness};
pub use value::{IoLimits, Value, parse_value};
pub use want::{MEMORY_MAX, Want, parse_rates};
