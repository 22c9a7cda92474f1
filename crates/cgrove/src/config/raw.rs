//! The configuration file's shape, before anything is checked.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Raw {
    pub(super) node: Option<String>,
    pub(super) demo: bool,
    pub(super) keep_capabilities: Vec<String>,
    pub(super) tree: RawTree,
    pub(super) zookeeper: RawZooKeeper,
    pub(super) cgroup: RawCgroup,
    pub(super) cpu: RawCpu,
    pub(super) tasks: RawTasks,
    pub(super) usage: RawUsage,
    pub(super) redis: RawRedis,
    pub(super) server: RawServer,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawTree {
    pub(super) source: Option<String>,
    pub(super) path: Option<PathBuf>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) trusted_keys: Vec<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawZooKeeper {
    pub(super) hosts: Option<String>,
    pub(super) prefix: Option<String>,
    pub(super) auth: Option<toml::Value>,
    pub(super) session_timeout: Option<String>,
    pub(super) tls_ca: Option<PathBuf>,
    pub(super) tls_certificate: Option<PathBuf>,
    pub(super) tls_key: Option<PathBuf>,
    pub(super) require_safe_acl: bool,
    pub(super) accept_older: bool,
}

#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub(super) enum RawAuth {
    Text(String),
    File { scheme: String, credential_file: PathBuf },
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawCgroup {
    pub(super) dir: Option<PathBuf>,
    pub(super) parent: Option<String>,
    pub(super) prune: Option<String>,
    pub(super) protected: Vec<String>,
    pub(super) resync: Option<String>,
    pub(super) instance: Option<String>,
    pub(super) marks: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawCpu {
    pub(super) conversion: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawTasks {
    pub(super) interval: Option<String>,
    pub(super) pid_files: BTreeMap<String, OneOrMany>,
    pub(super) follow_symlinks: bool,
    pub(super) rules: Option<toml::Value>,
    pub(super) proc_events: bool,
}

/// One of `[[tasks.rules]]`.
#[derive(Deserialize)]
pub(super) struct RawRule {
    pub(super) group: Option<String>,
    #[serde(default)]
    pub(super) ignore: bool,
    #[serde(flatten)]
    pub(super) criteria: BTreeMap<String, toml::Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawUsage {
    pub(super) store: Option<String>,
    pub(super) keep: Option<String>,
    pub(super) memory: Option<OneOrMany>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawRedis {
    pub(super) url: Option<toml::Value>,
    pub(super) cluster: bool,
    pub(super) password_file: Option<PathBuf>,
    pub(super) prefix: Option<String>,
    pub(super) tls_ca: Option<PathBuf>,
    pub(super) tls_certificate: Option<PathBuf>,
    pub(super) tls_key: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawServer {
    pub(super) listen: Option<OneOrMany>,
    pub(super) allow_from: Vec<String>,
    pub(super) insecure: bool,
    pub(super) trust_loopback: Option<bool>,
    pub(super) hosts: Vec<String>,
    pub(super) max_connections: Option<usize>,
    pub(super) tls_certificate: Option<PathBuf>,
    pub(super) tls_key: Option<PathBuf>,
    pub(super) tls_client_ca: Option<PathBuf>,
    pub(super) tls_client_roles: Option<Vec<String>>,
    pub(super) tokens: Option<toml::Value>,
}

/// One of `[[server.tokens]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawToken {
    pub(super) name: String,
    pub(super) roles: Vec<String>,
    pub(super) file: PathBuf,
}

#[derive(Deserialize, Clone)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
    Number(u64),
}

impl OneOrMany {
    pub(super) fn list(self) -> Vec<String> {
        match self {
            Self::One(s) => vec![s],
            Self::Many(list) => list,
            Self::Number(n) => vec![n.to_string()],
        }
    }
}
