//! cgrove, in the order in which data flows: desired -> plan -> apply -> sample -> store -> serve.

mod cli;
mod confine;
mod permission;
mod privileges;
mod run;

mod source;

mod approvals;
mod engine;
mod events;
mod hands;
mod hints;
mod reconcile;
mod tasks;
mod units;

mod sampler;
mod store;

mod serve;

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
mod term;
mod traces;

fn main() -> std::process::ExitCode {
    cli::main()
}
