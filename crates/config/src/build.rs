//! From the file's shape to [`Config`]: defaults, units, and what does not fit together.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cgrove_cgroupfs::host::Parents;
use cgrove_cgroupfs::mark::Identity;
use cgrove_core::document::{ENDLESS, is_endless};
use cgrove_core::ids::GroupPath;
use cgrove_core::knobs::CpuConversion;
use cgrove_core::plan::{Policy, Protected, Prune};
use cgrove_core::rules::Criteria;
use cgrove_state::StateDir;
use rustix::thread::CapabilitySet;

use super::redis::redis;
use super::server::server;
use super::usage::{events, metrics, usage};
use crate::raw::{Raw, RawAuth, RawCgroup, RawCpu, RawRule, RawZooKeeper};
use crate::values::{Bad, client_tls, duration, secret_file};
use crate::{Auth, Cgroup, Config, Secret, SourceKind, TaskRule, Tasks, Tree, ZooKeeper};

pub(crate) fn build(raw: Raw, base: &Path) -> Result<Config, Bad> {
    let hostname = || nix::unistd::gethostname().ok().and_then(|h| h.into_string().ok());
    let node = raw
        .node
        .or_else(hostname)
        .filter(|n| !n.is_empty())
        .ok_or(("node", "the host has no name; set one".to_owned()))?;
    let source = match raw.tree.source.as_deref().unwrap_or("zookeeper") {
        "zookeeper" => SourceKind::ZooKeeper,
        "file" => SourceKind::File,
        other => return Err(("tree.source", format!("{other:?} is not one of \"zookeeper\", \"file\""))),
    };
    let path = match (raw.tree.path, source) {
        (Some(path), _) => base.join(path),
        (None, SourceKind::File) => {
            return Err(("tree.path", "tree.source is \"file\": name the file that holds the document".into()));
        }
        (None, SourceKind::ZooKeeper) => PathBuf::new(),
    };
    let state_dir = base.join(raw.tree.state_dir.unwrap_or_else(|| "/var/lib/cgrove".into()));
    let trusted_keys = raw.tree.trusted_keys.iter().map(|path| base.join(path)).collect();
    let zookeeper = zookeeper(raw.zookeeper, source, base)?;
    let cgroup = cgroup(raw.cgroup, &raw.cpu, &state_dir)?;
    let interval = duration("tasks.interval", raw.tasks.interval, Duration::from_secs(30), Duration::from_millis(100))?;
    let mut pid_files = Vec::new();
    for (group, files) in raw.tasks.pid_files {
        let files = files.list();
        let fits = |f: &String| f.starts_with('/') && glob::Pattern::new(f).is_ok();
        if let Some(bad) = files.iter().find(|f| !fits(f)) {
            return Err(("tasks.pid_files", format!("{group}: {bad:?} is not an absolute path or glob")));
        }
        if let Some(bad) = files.iter().find(|f| is_endless(f)) {
            return Err(("tasks.pid_files", format!("{group}: {bad:?}: {ENDLESS}")));
        }
        if glob::Pattern::new(&group).is_err() {
            return Err(("tasks.pid_files", format!("{group:?} is not a group name, path or glob")));
        }
        pid_files.push((group, files));
    }
    let rules = rules(raw.tasks.rules)?;
    let (redis, wanted) = redis(raw.redis, &node, base)?;
    let usage = usage(raw.usage, wanted)?;
    let events = events(raw.events)?;
    let mut keep_capabilities = CapabilitySet::empty();
    for name in &raw.keep_capabilities {
        let capability = CapabilitySet::from_name(name.strip_prefix("CAP_").unwrap_or(name));
        keep_capabilities |= capability
            .ok_or_else(|| ("keep_capabilities", format!("{name:?} is not a capability such as \"CAP_SYS_ADMIN\"")))?;
    }
    let server = server(raw.server, base)?;
    let tasks = Tasks {
        interval,
        pid_files,
        follow_symlinks: raw.tasks.follow_symlinks,
        rules,
        proc_events: raw.tasks.proc_events,
    };
    Ok(Config {
        node,
        tree: Tree { source, path, state_dir, trusted_keys },
        zookeeper,
        cgroup,
        tasks,
        usage,
        events,
        metrics: metrics(raw.metrics),
        redis,
        server,
        demo: raw.demo,
        keep_capabilities,
    })
}

/// `[[tasks.rules]]`: which group, or `ignore = true`, and criteria as in a document.
fn rules(raw: Option<toml::Value>) -> Result<Vec<TaskRule>, Bad> {
    const NAME: &str = "tasks.rules";
    let Some(value) = raw else { return Ok(Vec::new()) };
    let entries: Vec<RawRule> = value.try_into().map_err(|e: toml::de::Error| {
        (NAME, format!("each is [[tasks.rules]] with group = \"NAME\" or ignore = true, and criteria: {}", e.message()))
    })?;
    let read = |(i, rule): (usize, RawRule)| {
        let bad = |why: String| (NAME, format!("rule {i}: {why}"));
        let json = serde_json::to_string(&rule.criteria).unwrap_or_default();
        let json = cgrove_core::json::parse(&json).map_err(|e| bad(e.to_string()))?;
        let criteria =
            Criteria::from_json(&json).map_err(|how| bad(format!("allowed is {how}, beside group or ignore")))?;
        match (rule.group, rule.ignore) {
            (Some(_), true) | (None, false) => Err(bad("either group = \"NAME\" or ignore = true".into())),
            (group, _) => Ok(TaskRule { group, criteria }),
        }
    };
    entries.into_iter().enumerate().map(read).collect()
}

fn zookeeper(raw: RawZooKeeper, source: SourceKind, base: &Path) -> Result<ZooKeeper, Bad> {
    let hosts = raw.hosts.unwrap_or_default().replace(' ', "");
    if hosts.is_empty() && source == SourceKind::ZooKeeper {
        return Err((
            "zookeeper.hosts",
            "tree.source is \"zookeeper\": name the servers, as in \"h1:2181,h2:2181/chroot\"".into(),
        ));
    }
    let prefix = raw.prefix.unwrap_or_else(|| "/cgrove".into());
    let odd = |c: &str| matches!(c, "." | "..") || c.chars().any(char::is_control);
    if !prefix.starts_with('/') || prefix.contains("//") || prefix.split('/').any(odd) {
        return Err(("zookeeper.prefix", format!("{prefix:?} is not an absolute znode path such as \"/cgrove\"")));
    }
    let mut auth = Vec::new();
    // The values are secrets: no error repeats them.
    const AUTH: &str = "a list of \"digest:user:password\" or { scheme = \"digest\", credential_file = \"...\" }";
    let bad = || ("zookeeper.auth", AUTH.to_owned());
    let entries: Vec<RawAuth> = raw.auth.map_or(Ok(Vec::new()), |v| v.try_into().map_err(|_| bad()))?;
    for entry in entries {
        auth.push(match entry {
            RawAuth::File { scheme, credential_file } => {
                Auth { scheme, credential: secret_file(base, &credential_file) }
            }
            RawAuth::Text(text) => {
                let (scheme, credential) = text.split_once(':').ok_or_else(bad)?;
                Auth { scheme: scheme.into(), credential: Secret::Text(credential.into()) }
            }
        });
    }
    let session_timeout =
        duration("zookeeper.session_timeout", raw.session_timeout, Duration::from_secs(10), Duration::from_secs(1))?;
    let tls = client_tls("zookeeper.tls_ca", [raw.tls_ca, raw.tls_certificate, raw.tls_key], base)?;
    Ok(ZooKeeper {
        hosts,
        prefix: prefix.trim_end_matches('/').into(),
        auth,
        session_timeout,
        tls,
        require_safe_acl: raw.require_safe_acl,
        accept_older: raw.accept_older,
    })
}

fn cgroup(raw: RawCgroup, cpu: &RawCpu, state_dir: &Path) -> Result<Cgroup, Bad> {
    let prune = match raw.prune.as_deref().unwrap_or("owned") {
        "owned" => Prune::Owned,
        "all" => Prune::All,
        "none" => Prune::None,
        other => return Err(("cgroup.prune", format!("{other:?} is not one of \"owned\", \"all\", \"none\""))),
    };
    let protected = Protected::new(raw.protected.iter().map(String::as_str)).map_err(|e| ("cgroup.protected", e))?;
    let conversion = match cpu.conversion.as_deref().unwrap_or("linear") {
        "linear" => CpuConversion::Linear,
        "runc" => CpuConversion::Runc,
        other => return Err(("cpu.conversion", format!("{other:?} is not one of \"linear\", \"runc\""))),
    };
    let parent = |text: &str| {
        let trimmed = if text.len() > 1 { text.trim_end_matches('/') } else { text };
        GroupPath::parse(trimmed).map_err(|e| ("cgroup.parent", e.0))
    };
    let parents = match &raw.parent {
        Some(text) => Parents { v1: parent(text)?, v2: parent(text)? },
        None => Parents { v1: parent("/")?, v2: parent("/cgrove")? },
    };
    let ledger_only = match raw.marks.as_deref().unwrap_or("auto") {
        "auto" => false,
        "state_dir" => true,
        other => return Err(("cgroup.marks", format!("{other:?} is not one of \"auto\", \"state_dir\""))),
    };
    let instance = raw.instance.unwrap_or_else(|| "cgrove".into());
    let identity = Identity::new(instance, parents, &StateDir::new(state_dir), ledger_only);
    Ok(Cgroup {
        dir: raw.dir.unwrap_or_else(|| "/sys/fs/cgroup".into()),
        identity,
        policy: Policy { prune, protected, conversion },
        resync: duration("cgroup.resync", raw.resync, Duration::from_secs(60), Duration::from_secs(1))?,
    })
}
