//! The command line: one file for each command.

mod approve;
mod args;
mod cgexec;
mod check;
mod client;
mod convert;
mod document;
mod events;
mod feed;
mod figures;
mod groups;
mod import;
mod pages;
mod plan;
mod plot;
mod push;
mod reclaim;
mod reply;
mod runtime;
mod sign;
mod status;
mod top;
mod tree;
mod usage;
mod why;

use std::process::ExitCode;

use cgrove_core::text::shown;
use clap::Parser;

use self::args::{Args, Command};
use self::runtime::in_runtime;
use crate::exit::{self, Exit};
use crate::hands::Hands;
use crate::term;
use crate::traces::Traces;

/// Parses, runs, and turns the outcome into an exit code.
pub(crate) fn main() -> ExitCode {
    term::escape_panics();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(e) => {
            if e.use_stderr() {
                // Without clap's colours: it quotes what was typed, also where that would make lines of its own.
                let text = e.render().to_string();
                let forged = std::env::args_os().any(|arg| shown(&arg.to_string_lossy()) != arg.to_string_lossy());
                if forged { term::err(text.trim_end()) } else { text.trim_end().lines().for_each(term::err) }
            } else {
                let _ = e.print();
            }
            return if e.use_stderr() { ExitCode::from(exit::USAGE) } else { ExitCode::SUCCESS };
        }
    };
    if matches!(args.command, Command::DemoLoad) {
        crate::demo::load();
        return ExitCode::SUCCESS;
    }
    let daemon = matches!(args.command, Command::Run);
    let traces = crate::log::start(args.global.log_format, if daemon { "info" } else { "warn" }, daemon);
    let ended = run(&args, &traces);
    traces.end();
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(exit) => {
            if !exit.message.is_empty() {
                term::err(&format!("cgrove: {}", exit.message));
            }
            ExitCode::from(exit.code)
        }
    }
}

fn run(args: &Args, traces: &Traces) -> Result<u8, Exit> {
    match &args.command {
        Command::Run => {
            let config = document::load(args)?;
            crate::memory::one_heap();
            crate::privileges::drop_all_but_needed(&config);
            let hands = Hands::begin().map_err(|e| Exit::unavailable(format!("cannot start: {e}")))?;
            cgrove_cgroupfs::view::prepare();
            let confinement = crate::confine::confine(&config);
            traces.begin(&config.node);
            in_runtime(crate::run::run(&args.global.config(), config, hands, confinement))?.map(|()| 0)
        }
        Command::Check { tree } => check::run(args, tree.as_deref()),
        Command::Plan { tree } => plan::plan(args, tree.as_deref()),
        Command::Apply { tree } => plan::apply(args, tree.as_deref(), traces),
        Command::Approve { digest } => approve::run(args, digest),
        Command::Push { tree, approve, sign } => push::run(args, tree, *approve, sign.as_deref()),
        Command::Sign { key, tree } => sign::run(args, key, tree),
        Command::Cgexec { names, create, all } => cgexec::lookup(args, names, *create, *all),
        Command::Exec { group, command } => cgexec::exec(args, group, command),
        Command::Status { follow, whom } => status::run(args, whom, *follow),
        Command::Tree { follow } => tree::run(args, *follow),
        Command::Reclaim { group, amount } => reclaim::run(args, group, amount),
        Command::Why { pids } => why::run(args, pids),
        Command::Usage(asked) => usage::run(args, asked),
        Command::Events(asked) => events::run(args, asked),
        Command::Top(asked) => top::run(args, asked),
        Command::Convert { tree, to } => convert::run(args, tree.as_deref(), *to),
        Command::Import { from, files, everywhere } => import::run(args, *from, files, *everywhere),
        Command::Schema => pages::schema(),
        Command::Completions { shell } => pages::completions(*shell),
        Command::Man { directory } => pages::man(directory.as_deref()),
        Command::DemoLoad => Ok(0),
    }
}
