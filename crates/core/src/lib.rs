//! cgrove's pure half, in the order in which data flows: document -> desired, actual -> plan -> usage, request.
//! No I/O, no clock, no async: what is here can be tested in tables and properties.

pub mod ids;
pub mod json;
pub mod knobs;
pub mod text;

pub mod desired;
pub mod document;
pub mod event;

pub mod actual;
pub mod plan;

pub mod placement;
pub mod rules;

pub mod request;
pub mod usage;
