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
pub use lists::{DevId, DeviceRule, IdSet};
pub use resolve::{CpuConversion, FileWant, Resolved, Settings, Site};
pub use table::{Field, Kind, Knob, Side, Unset, find, knobs, witness};
pub use value::{Value, parse_value};
pub use want::{Lines, MEMORY_MAX, Want};
