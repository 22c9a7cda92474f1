//! The configuration file's shape, before anything is checked.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Raw {
    pub(crate) node: Option<String>,
    pub(crate) demo: bool,
    pub(crate) keep_capabilities: Vec<String>,
    pub(crate) tree: RawTree,
    pub(crate) zookeeper: RawZooKeeper,
    pub(crate) cgroup: RawCgroup,
    pub(crate) cpu: RawCpu,
    pub(crate) tasks: RawTasks,
    pub(crate) usage: RawUsage,
    pub(crate) events: RawEvents,
    pub(crate) metrics: RawMetrics,
    pub(crate) redis: RawRedis,
    pub(crate) server: RawServer,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawTree {
    pub(crate) source: Option<String>,
    pub(crate) path: Option<PathBuf>,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) trusted_keys: Vec<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawZooKeeper {
    pub(crate) hosts: Option<String>,
    pub(crate) prefix: Option<String>,
    pub(crate) auth: Option<toml::Value>,
    pub(crate) session_timeout: Option<String>,
    pub(crate) tls_ca: Option<PathBuf>,
    pub(crate) tls_certificate: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
    pub(crate) require_safe_acl: bool,
    pub(crate) accept_older: bool,
}

#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub(crate) enum RawAuth {
    Text(String),
    File { scheme: String, credential_file: PathBuf },
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawCgroup {
    pub(crate) dir: Option<PathBuf>,
    pub(crate) parent: Option<String>,
    pub(crate) prune: Option<String>,
    pub(crate) protected: Vec<String>,
    pub(crate) resync: Option<String>,
    pub(crate) instance: Option<String>,
    pub(crate) marks: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawCpu {
    pub(crate) conversion: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawTasks {
    pub(crate) interval: Option<String>,
    pub(crate) pid_files: BTreeMap<String, OneOrMany>,
    pub(crate) follow_symlinks: bool,
    pub(crate) rules: Option<toml::Value>,
    pub(crate) proc_events: bool,
}

/// One of `[[tasks.rules]]`.
#[derive(Deserialize)]
pub(crate) struct RawRule {
    pub(crate) group: Option<String>,
    #[serde(default)]
    pub(crate) ignore: bool,
    #[serde(flatten)]
    pub(crate) criteria: BTreeMap<String, toml::Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawUsage {
    pub(crate) store: Option<String>,
    pub(crate) keep: Option<String>,
    pub(crate) memory: Option<OneOrMany>,
    pub(crate) collect: Option<OneOrMany>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawEvents {
    pub(crate) keep: Option<usize>,
    pub(crate) pressure: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawMetrics {
    pub(crate) groups: Option<usize>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawRedis {
    pub(crate) url: Option<toml::Value>,
    pub(crate) cluster: bool,
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) prefix: Option<String>,
    pub(crate) compression: Option<String>,
    pub(crate) tls_ca: Option<PathBuf>,
    pub(crate) tls_certificate: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawServer {
    pub(crate) listen: Option<OneOrMany>,
    pub(crate) allow_from: Vec<String>,
    pub(crate) insecure: bool,
    pub(crate) trust_loopback: Option<bool>,
    pub(crate) hosts: Vec<String>,
    pub(crate) max_connections: Option<usize>,
    pub(crate) idle_timeout: Option<String>,
    pub(crate) tls_certificate: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
    pub(crate) tls_client_ca: Option<PathBuf>,
    pub(crate) tls_client_roles: Option<Vec<String>>,
    pub(crate) tokens: Option<toml::Value>,
}

/// One of `[[server.tokens]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawToken {
    pub(crate) name: String,
    pub(crate) roles: Vec<String>,
    pub(crate) file: PathBuf,
}

#[derive(Deserialize, Clone)]
#[serde(untagged, expecting = "must be text in quotes, a whole number, or a list of texts")]
pub(crate) enum OneOrMany {
    One(String),
    Many(Vec<String>),
    Number(u64),
}

impl OneOrMany {
    pub(crate) fn list(self) -> Vec<String> {
        match self {
            Self::One(s) => vec![s],
            Self::Many(list) => list,
            Self::Number(n) => vec![n.to_string()],
        }
    }
}
