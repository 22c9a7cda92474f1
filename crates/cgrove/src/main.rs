//! cgrove, in the order in which data flows: desired -> plan -> apply -> sample -> store -> serve.

mod cli;
mod confine;
mod permission;
mod privileges;
mod run;

mod deadline;
mod ports;
mod reload;

mod source;
mod state;

mod claims;
mod engine;
mod events;
mod globs;
mod hands;
mod hints;
mod reconcile;
mod tasks;
mod units;

mod sampler;
mod store;

mod serve;

mod budget;
mod client_tls;
mod clock;
mod progress;
mod pulse;
mod service;
mod status;

mod demo;
mod exit;
mod log;
mod memory;
mod owner;
mod term;
mod traces;

fn main() -> std::process::ExitCode {
    cli::main()
}
