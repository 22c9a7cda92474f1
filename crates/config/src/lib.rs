//! Settings: a TOML file, then CGROVE_* from the environment; checked once, then immutable.

mod build;
pub mod files;
mod load;
mod names;
mod raw;
mod redis;
mod server;
mod usage;
mod values;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cgrove_cgroupfs::host::{Host, Parents};
use cgrove_cgroupfs::mark::Identity;
use cgrove_core::actual::Version;
use cgrove_core::ids::GroupPath;
use cgrove_core::plan::{Policy, Prune};
use cgrove_core::rules::Criteria;
use rustix::thread::CapabilitySet;

pub use self::redis::{Compression, Redis, Sentinels};
pub use load::{ConfigError, environment, load, parse, standard};
pub use server::{Address, Roles, Server, Tls, check_reach};
pub use usage::{Events, Metrics, Resource, StoreKind, Threshold, Usage};

/// Where the configuration is unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/cgrove/cgrove.toml";

/// Everything that can be set, validated. `config/cgrove.toml` explains each.
#[derive(Debug, Clone)]
pub struct Config {
    pub node: String,
    pub tree: Tree,
    pub zookeeper: ZooKeeper,
    pub cgroup: Cgroup,
    pub tasks: Tasks,
    pub usage: Usage,
    pub events: Events,
    pub metrics: Metrics,
    pub redis: Redis,
    pub server: Server,
    /// `demo = true`: a small busy process to look at, which ends with the daemon.
    pub demo: bool,
    /// What the daemon keeps beside what it knows to need.
    pub keep_capabilities: CapabilitySet,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    ZooKeeper,
    File,
}

#[derive(Debug, Clone)]
pub struct Tree {
    pub source: SourceKind,
    pub path: PathBuf,
    pub state_dir: PathBuf,
    /// Files with the public keys of those who may sign documents; none: documents need no signature.
    pub trusted_keys: Vec<PathBuf>,
}

#[derive(Debug, Clone)]
pub struct ZooKeeper {
    pub hosts: String,
    pub prefix: String,
    pub auth: Vec<Auth>,
    pub session_timeout: Duration,
    /// PEM files; TLS is spoken when the authority is named.
    pub tls: Option<ClientTls>,
    /// A document that anybody may write is refused.
    pub require_safe_acl: bool,
    /// A document older than the one in force is taken.
    pub accept_older: bool,
}

/// How a server proves itself to us, and we to it; PEM files, read at each connection.
#[derive(Debug, Clone)]
pub struct ClientTls {
    pub ca: PathBuf,
    /// Our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// One `addauth`; the secret is read again at each connection when it lives in a file.
#[derive(Debug, Clone)]
pub struct Auth {
    pub scheme: String,
    pub credential: Secret,
}

/// Where systemd keeps the running service's credentials.
const SERVICE_CREDENTIALS: &str = "/run/credentials/cgrove.service";

/// Where an operator puts them; see LoadCredential= in the unit.
const CREDENTIALS: &str = "/etc/cgrove/credentials";

/// A secret that never prints.
#[derive(Clone)]
pub enum Secret {
    Text(String),
    File(PathBuf),
    /// A file that systemd passes to the service (LoadCredential=).
    Credential(PathBuf),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(_) => f.write_str("***"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Credential(name) => write!(f, "credential {}", name.display()),
        }
    }
}

impl Secret {
    /// The secret itself, without the newline that editors add to files.
    pub fn read(&self) -> std::io::Result<String> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::Credential(name) => {
                // Another command than the service's looks where systemd keeps them; only root may.
                let dir = std::env::var_os("CREDENTIALS_DIRECTORY").unwrap_or_else(|| SERVICE_CREDENTIALS.into());
                let passed = PathBuf::from(dir).join(name);
                // Before the service's first start, root reads what systemd will pass.
                let plain = name.to_str().and_then(|n| n.strip_prefix("cgrove_"));
                match plain.filter(|_| !passed.exists()) {
                    Some(plain) => Self::File(Path::new(CREDENTIALS).join(plain)).read(),
                    None => Self::File(passed).read(),
                }
            }
            Self::File(path) => {
                let named = |e: std::io::Error| std::io::Error::new(e.kind(), format!("{}: {e}", path.display()));
                Ok(files::read_text(path, files::SECRET).map_err(named)?.trim_end_matches(['\n', '\r']).to_owned())
            }
        }
    }
}

#[derive(Debug, Clone)]
pub struct Cgroup {
    pub dir: PathBuf,
    pub identity: Identity,
    pub policy: Policy,
    pub resync: Duration,
}

#[derive(Debug, Clone)]
pub struct Tasks {
    pub interval: Duration,
    /// Group name, path or glob to files; in file order.
    pub pid_files: Vec<(String, Vec<String>)>,
    pub follow_symlinks: bool,
    pub rules: Vec<TaskRule>,
    /// Listen to the kernel's process events.
    pub proc_events: bool,
}

/// A rule of this node's own; the first that matches a process counts.
#[derive(Debug, Clone)]
pub struct TaskRule {
    /// A group's name or path; `None` leaves what matches where it is.
    pub group: Option<String>,
    pub criteria: Criteria,
}

impl Config {
    /// The managed parent, by cgroup version.
    pub fn parents(&self) -> &Parents {
        &self.cgroup.identity.parents
    }

    /// The parent for people: one path, or both where they differ and the node has both.
    pub fn parent_shown(&self) -> String {
        let Parents { v1, v2 } = self.parents();
        let mounts = Host::discover(&self.cgroup.dir).map(|h| h.mounts).unwrap_or_default();
        let has = |version| mounts.iter().any(|m| m.version == version);
        match (has(Version::V1), has(Version::V2)) {
            _ if v1 == v2 => v1.to_string(),
            (true, true) => format!("{v1} (cgroup v1) and {v2} (v2)"),
            (false, true) => v2.to_string(),
            _ => v1.to_string(),
        }
    }

    pub fn prune(&self) -> Prune {
        self.cgroup.policy.prune
    }

    /// The pid files of each group by configuration, with `{name}` and `{path}` filled in. A bare name that stands
    /// at several paths is reported, never guessed.
    pub fn pid_files(&self, groups: &[&GroupPath]) -> (BTreeMap<GroupPath, Vec<String>>, Vec<String>) {
        let mut out: BTreeMap<GroupPath, Vec<String>> = BTreeMap::new();
        let mut problems = Vec::new();
        for (key, files) in &self.tasks.pid_files {
            let options = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
            let Ok(pattern) = glob::Pattern::new(key) else { continue };
            let is_path = key.starts_with('/');
            let hit = |p: &&&GroupPath| {
                if is_path { pattern.matches_with(p.as_str(), options) } else { pattern.matches(p.name()) }
            };
            let hits: Vec<_> = groups.iter().filter(hit).collect();
            let bare = !is_path && glob::Pattern::escape(key) == *key;
            if bare && hits.len() > 1 {
                let paths: Vec<_> = hits.iter().map(|p| p.as_str()).collect();
                problems
                    .push(format!("tasks.pid_files.{key:?}: the name stands at {}; use the path", paths.join(", ")));
                continue;
            }
            if hits.is_empty() && glob::Pattern::escape(key) == *key {
                problems.push(format!("tasks.pid_files.{key:?}: the document has no such group"));
            }
            for path in hits {
                let filled = files.iter().map(|f| f.replace("{name}", path.name()).replace("{path}", path.as_str()));
                out.entry((**path).clone()).or_default().extend(filled);
            }
        }
        (out, problems)
    }
}
