//! What can be typed.

use std::cell::OnceCell;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use cgrove_config::{Config, DEFAULT_PATH};

/// Declarative cgroups for compute nodes: one tree in ZooKeeper, made true and measured on every node.
#[derive(Debug, Parser)]
#[command(name = "cgrove", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 2 (plan) there are changes; 64 usage; 65 bad document; 66 no such file; \
69 unavailable (ZooKeeper, daemon, port, cgroups), or an action of apply failed; 77 permission; 78 bad configuration.
A TREE is a document's file, or - for standard input; without it the configured source is read.
Environment: CGROVE_<SECTION>_<SETTING> overrides a setting, CGROVE_LOG sets the log level (info, debug).";

#[derive(Debug, ClapArgs)]
pub(crate) struct Global {
    /// The configuration [default: /etc/cgrove/cgrove.toml]
    #[arg(long, global = true, env = "CGROVE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// How results are printed
    #[arg(long, global = true, env = "CGROVE_OUTPUT", default_value = "text", value_name = "FORMAT")]
    pub(crate) output: Output,
    /// How the log is written [default: journald under systemd, else text on standard error]
    #[arg(long, global = true, env = "CGROVE_LOG_FORMAT", value_name = "FORMAT")]
    pub(crate) log_format: Option<crate::log::Format>,
    #[arg(skip)]
    pub(super) loaded: OnceCell<Arc<Config>>,
}

impl Global {
    pub(crate) fn config(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| DEFAULT_PATH.into())
    }

    /// Named by the user, or there.
    pub(crate) fn has_config(&self) -> bool {
        self.config.is_some() || self.config().exists()
    }

    pub(crate) fn json(&self) -> bool {
        self.output == Output::Json
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// {"groups": {...}}: each group is written once
    ByGroup,
    /// {"cpu": {"sub_cgroup": {...}}}: cgrouparch's form
    ByController,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Origin {
    /// cgconfig.conf(5) and cgrules.conf(5)
    Libcgroup,
    /// The kernel's groups, with the knobs that are not as in a new group
    Host,
}

/// Whom to ask, if not this node's daemon.
#[derive(Debug, Clone, Default, ClapArgs)]
pub(crate) struct Whom {
    /// Ask the daemon at this address instead of this node's own; without a port it is 43409
    #[arg(long, value_name = "ws://HOST:PORT|wss://HOST:PORT")]
    pub(super) url: Option<String>,
    /// A file with the token that the daemon wants
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(super) token_file: Option<PathBuf>,
    /// Who signed the certificate of a wss:// address (PEM)
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(super) ca: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Column {
    Name,
    Cpu,
    Memory,
    Io,
    Tasks,
    Pressure,
}

#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct UsageArgs {
    /// How many slots to ask for; the table shows rates over them, or over as many as are kept [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) slots: Option<u64>,
    /// Go on, one table a second
    #[arg(long)]
    pub(super) follow: bool,
    /// Only this group and what is below it; a path such as /clients/vm-1, or a name
    #[arg(long, value_name = "GROUP")]
    pub(super) group: Option<String>,
    /// Only so many levels below it; 0 is the group alone
    #[arg(long, value_name = "LEVELS")]
    pub(super) depth: Option<u64>,
    /// Another node's, out of the Redis that it and the daemon share
    #[arg(long, value_name = "NAME")]
    pub(super) node: Option<String>,
    /// Draw the kept slots, or the last `--slots` of them, into a .png or .svg file
    #[arg(long, value_name = "FILE", conflicts_with = "follow")]
    pub(super) plot: Option<PathBuf>,
    #[command(flatten)]
    pub(super) whom: Whom,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct EventsArgs {
    /// Go on
    #[arg(long)]
    pub(super) follow: bool,
    /// How many of those that were
    #[arg(long, short = 'n', default_value_t = 20, value_name = "N")]
    pub(super) number: u64,
    /// Only of this group and what is below it; a path such as /clients/vm-1, or a name
    #[arg(long, value_name = "GROUP")]
    pub(super) group: Option<String>,
    /// Only of these kinds, joined by commas
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    pub(super) kinds: Vec<String>,
    #[command(flatten)]
    pub(super) whom: Whom,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct TopArgs {
    /// Begin with this sorted first
    #[arg(long, value_enum, default_value_t = Column::Cpu)]
    pub(super) sort: Column,
    /// Begin with all groups in one list
    #[arg(long)]
    pub(super) flat: bool,
    #[command(flatten)]
    pub(super) whom: Whom,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon in the foreground
    Run,
    /// Validate a document; says line, JSON path and what is allowed
    Check {
        /// A document's file, or - for standard input [default: the configured source]
        tree: Option<String>,
    },
    /// Show what would change; exit code 2 when something would
    Plan {
        /// A document's file, or - for standard input [default: the configured source]
        tree: Option<String>,
    },
    /// Reconcile once, without the daemon
    Apply {
        /// A document's file, or - for standard input [default: the configured source]
        tree: Option<String>,
    },
    /// Let held removals go, or an older document come back; status and plan show the digest
    Approve {
        /// As `cgrove status` and `cgrove plan` show it
        digest: String,
    },
    /// Validate a document, show its plan for this node, and write it to ZooKeeper
    Push {
        /// A document's file, or - for standard input
        tree: String,
        /// Fill in "allow_removals", so that this document may remove any number of groups, once
        #[arg(long)]
        approve: bool,
        /// Sign it with this Ed25519 private key (PEM), for nodes with tree.trusted_keys
        #[arg(long, value_name = "KEY")]
        sign: Option<PathBuf>,
    },
    /// Print a document with a signature, for nodes with tree.trusted_keys whose source is a file
    Sign {
        /// An Ed25519 private key (PEM)
        key: PathBuf,
        /// A document's file, or - for standard input
        tree: String,
    },
    /// Print the arguments for libcgroup's cgexec that run a command in a group
    #[command(after_help = "Example: cgexec $(cgrove cgexec vm-1) COMMAND")]
    Cgexec {
        /// Group names, or paths such as /clients/vm-1
        #[arg(required = true)]
        names: Vec<String>,
        /// Make groups of the document that the kernel does not have yet
        #[arg(long)]
        create: bool,
        /// Take every path at which a name stands
        #[arg(long)]
        all: bool,
    },
    /// Run a command in a group, in every hierarchy that has it
    #[command(after_help = "Exit code: the command's own; 125 cgrove failed, 126 cannot be run, 127 not found.")]
    Exec {
        /// A group name, or a path such as /clients/vm-1
        group: String,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Ask the kernel once to take memory back from a group (cgroup v2, Linux 5.19)
    Reclaim {
        /// A group name, or a path such as /clients/vm-1
        group: String,
        /// How much, as in 100M
        amount: String,
    },
    /// Say which pid file or rule decides where a process belongs, and where it is
    Why {
        #[arg(required = true, value_name = "PID")]
        pids: Vec<i32>,
    },
    /// Show the daemon's state
    Status {
        /// Go on, whenever something changed
        #[arg(long)]
        follow: bool,
        #[command(flatten)]
        whom: Whom,
    },
    /// Show the kernel's tree with its knobs
    Tree {
        /// Go on, whenever something changed
        #[arg(long)]
        follow: bool,
    },
    /// Show what groups use
    Usage(UsageArgs),
    /// Show what happened to groups: drift, failures, OOM kills, and more
    Events(EventsArgs),
    /// Watch groups in the terminal: what they use, their knobs, processes and events
    #[command(after_help = "Keys are listed by `?`.")]
    Top(TopArgs),
    /// Write a document in the other form, and say what changes its meaning
    Convert {
        /// A document's file, or - for standard input [default: the configured source]
        tree: Option<String>,
        /// [default: the other form]
        #[arg(long, value_name = "FORM")]
        to: Option<Form>,
    },
    /// Write a document of what libcgroup's files describe, or of what the kernel has
    #[command(after_help = "What a document cannot say is listed on standard error. Nothing is changed.")]
    Import {
        /// Where from
        #[arg(long, value_name = "ORIGIN")]
        from: Origin,
        /// libcgroup: cgconfig.conf and cgrules.conf
        files: Vec<PathBuf>,
        /// host: every group of every hierarchy, not only those below the managed parent
        #[arg(long)]
        everywhere: bool,
    },
    /// Print the JSON Schema of documents
    Schema,
    /// Print shell completions
    Completions { shell: clap_complete::Shell },
    /// Print the manual page, or write all pages into a directory
    Man { directory: Option<PathBuf> },
    /// The demo's process
    #[command(name = crate::demo::COMMAND, hide = true)]
    DemoLoad,
}
