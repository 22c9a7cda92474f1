//! File and environment to [`Config`], with errors that name the file, the line, the setting and the mend.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cgrove_cgroupfs::mark::Identity;
use cgrove_core::ids::GroupPath;
use cgrove_core::knobs::CpuConversion;
use cgrove_core::plan::{Policy, Protected, Prune};
use serde::Deserialize;

use super::names::{SETTINGS, unknown};
use super::{Auth, Cgroup, Config, Redis, Secret, Server, SourceKind, StoreKind, Tasks, Tree, Usage, ZooKeeper};

/// A configuration that cannot be used; one line for people. Exit code 78.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ConfigError(String);

#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw {
    node: Option<String>,
    demo: bool,
    tree: RawTree,
    zookeeper: RawZooKeeper,
    cgroup: RawCgroup,
    cpu: RawCpu,
    tasks: RawTasks,
    usage: RawUsage,
    redis: RawRedis,
    server: RawServer,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawTree {
    source: Option<String>,
    path: Option<PathBuf>,
    state_dir: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawZooKeeper {
    hosts: Option<String>,
    prefix: Option<String>,
    auth: Vec<RawAuth>,
    session_timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawAuth {
    Text(String),
    File { scheme: String, credential_file: PathBuf },
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawCgroup {
    dir: Option<PathBuf>,
    parent: Option<String>,
    prune: Option<String>,
    protected: Vec<String>,
    resync: Option<String>,
    instance: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawCpu {
    conversion: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawTasks {
    interval: Option<String>,
    pid_files: BTreeMap<String, OneOrMany>,
    follow_symlinks: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawUsage {
    store: Option<String>,
    keep: Option<String>,
    memory: Option<OneOrMany>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawRedis {
    url: Option<String>,
    password_file: Option<PathBuf>,
    prefix: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawServer {
    listen: Option<OneOrMany>,
    allow_from: Vec<String>,
    insecure: bool,
    hosts: Vec<String>,
    max_connections: Option<usize>,
}

#[derive(Deserialize, Clone)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
    Number(u64),
}

impl OneOrMany {
    fn list(self) -> Vec<String> {
        match self {
            Self::One(s) => vec![s],
            Self::Many(list) => list,
            Self::Number(n) => vec![n.to_string()],
        }
    }
}

/// Reads `path` and the environment. Relative paths in the file are relative to the file.
pub(crate) fn load(path: &Path, env: impl Iterator<Item = (String, String)>) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        ConfigError(format!(
            "{}: {e}; name a configuration with --config FILE (config/cgrove.toml explains every setting)",
            path.display()
        ))
    })?;
    let base = std::fs::canonicalize(path).ok().and_then(|p| p.parent().map(Path::to_owned)).unwrap_or_default();
    parse(&text, &path.display().to_string(), &base, env)
}

/// The defaults alone, for commands that look at a document by itself.
pub(crate) fn standard(env: impl Iterator<Item = (String, String)>) -> Result<Config, ConfigError> {
    parse("[tree]\nsource = \"file\"\npath = \"/dev/null\"\n", "the defaults", Path::new("/"), env)
}

fn parse(
    text: &str,
    file: &str,
    base: &Path,
    env: impl Iterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let mut table: toml::Table = toml::from_str(text).map_err(|e| ConfigError(format!("{file}: {e}")))?;
    check_names(&table, "").map_err(|(name, why)| ConfigError(format!("{file}:{}: {why}", line_of(text, &name))))?;
    toml::from_str::<Raw>(text).map_err(|e| ConfigError(format!("{file}: {e}")))?;
    for (key, value) in env {
        merge_env(&mut table, &key, &value)?;
    }
    let raw: Raw = table.try_into().map_err(|e| ConfigError(format!("{file} and CGROVE_* variables: {e}")))?;
    build(raw, base).map_err(|(name, why)| {
        let at = line_of(text, name);
        let place = if at > 0 { format!("{file}:{at}") } else { file.to_owned() };
        ConfigError(format!("{place}: {name}: {why}"))
    })
}

/// The first unknown key, depth first.
fn check_names(table: &toml::Table, prefix: &str) -> Result<(), (String, String)> {
    for (key, value) in table {
        let dotted = format!("{prefix}{key}");
        let is_table = value.is_table();
        if let Some(why) = unknown(&dotted, is_table) {
            return Err((dotted, why));
        }
        if let toml::Value::Table(inner) = value
            && !SETTINGS.contains(&format!("{dotted}.*").as_str())
        {
            check_names(inner, &format!("{dotted}."))?;
        }
    }
    Ok(())
}

/// `CGROVE_REDIS_URL=...` sets `redis.url`: a TOML value where it reads as one, else a string.
fn merge_env(table: &mut toml::Table, key: &str, value: &str) -> Result<(), ConfigError> {
    let Some(name) = key.strip_prefix("CGROVE_") else { return Ok(()) };
    let matches = |s: &&&str| s.replace('.', "_").eq_ignore_ascii_case(name);
    // CGROVE_CONFIG, CGROVE_OUTPUT and CGROVE_LOG belong to the command line.
    if matches!(name, "CONFIG" | "OUTPUT" | "LOG" | "LOG_FORMAT") {
        return Ok(());
    }
    let Some(setting) = SETTINGS.iter().find(matches) else {
        let names = SETTINGS.iter().filter(|s| !s.ends_with('*')).map(|s| s.replace('.', "_")).collect::<Vec<_>>();
        let hint = cgrove_core::document::nearest(&name.to_lowercase(), names.iter().map(String::as_str));
        let hint = hint.map(|n| format!("; did you mean CGROVE_{}?", n.to_uppercase())).unwrap_or_default();
        return Err(ConfigError(format!("environment variable {key}: no such setting{hint}")));
    };
    let value = toml::from_str::<toml::Table>(&format!("v = {value}"))
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| toml::Value::String(value.into()));
    match setting.split_once('.') {
        None => {
            table.insert((*setting).into(), value);
        }
        Some((section, key)) => {
            let section = table.entry(section).or_insert_with(|| toml::Value::Table(Default::default()));
            if let toml::Value::Table(section) = section {
                section.insert(key.into(), value);
            }
        }
    }
    Ok(())
}

/// The line where a dotted name is set; 0 when it is not in the file.
fn line_of(text: &str, dotted: &str) -> usize {
    let mut section = String::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.split(']').next()) {
            section = format!("{}.", name.trim_matches('['));
            if section.trim_end_matches('.') == dotted {
                return i + 1;
            }
        } else if let Some((key, _)) = line.split_once('=')
            && format!("{section}{}", key.trim().trim_matches('"')) == dotted
        {
            return i + 1;
        }
    }
    0
}

type Bad = (&'static str, String);

fn build(raw: Raw, base: &Path) -> Result<Config, Bad> {
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
    let zookeeper = zookeeper(raw.zookeeper, source, base)?;
    let cgroup = cgroup(raw.cgroup, &raw.cpu)?;
    let interval = duration("tasks.interval", raw.tasks.interval, Duration::from_secs(30), Duration::from_millis(100))?;
    let mut pid_files = Vec::new();
    for (group, files) in raw.tasks.pid_files {
        let files = files.list();
        let fits = |f: &String| f.starts_with('/') && glob::Pattern::new(f).is_ok();
        if let Some(bad) = files.iter().find(|f| !fits(f)) {
            return Err(("tasks.pid_files", format!("{group}: {bad:?} is not an absolute path or glob")));
        }
        if glob::Pattern::new(&group).is_err() {
            return Err(("tasks.pid_files", format!("{group:?} is not a group name, path or glob")));
        }
        pid_files.push((group, files));
    }
    let store = match (raw.usage.store.as_deref(), &raw.redis.url) {
        (Some("redis"), _) | (None, Some(_)) => StoreKind::Redis,
        (Some("memory"), _) | (None, None) => StoreKind::Memory,
        (Some(other), _) => return Err(("usage.store", format!("{other:?} is not one of \"memory\", \"redis\""))),
    };
    let keep = duration("usage.keep", raw.usage.keep, Duration::from_secs(300), Duration::from_secs(1))?;
    let memory = match raw.usage.memory.map(|m| m.list().concat()) {
        None => 64 << 20,
        Some(text) => bytes(&text).ok_or(("usage.memory", format!("{text:?} is not a size such as \"64M\"")))?,
    };
    let prefix = raw.redis.prefix.unwrap_or_else(|| "cgroup_arch".into()).replace("{node}", &node);
    let redis = Redis {
        url: raw.redis.url.unwrap_or_else(|| "redis://127.0.0.1:6379".into()),
        password: raw.redis.password_file.map(|p| Secret::File(base.join(p))),
        prefix: prefix.trim_end_matches('/').to_owned(),
    };
    // A wrong URL is a configuration error even before Redis is used; the client's text may quote the URL and its password.
    if let Err(e) = redis::Client::open(redis.url.as_str()) {
        return Err(("redis.url", format!("not of the form redis://[user:password@]host:port[/db] ({:?})", e.kind())));
    }
    let server = server(raw.server)?;
    let tasks = Tasks { interval, pid_files, follow_symlinks: raw.tasks.follow_symlinks };
    Ok(Config {
        node,
        tree: Tree { source, path, state_dir },
        zookeeper,
        cgroup,
        tasks,
        usage: Usage { store, keep, memory },
        redis,
        server,
        demo: raw.demo,
    })
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
    if !prefix.starts_with('/') || prefix.contains("//") {
        return Err(("zookeeper.prefix", format!("{prefix:?} is not an absolute znode path such as \"/cgrove\"")));
    }
    let mut auth = Vec::new();
    for entry in raw.auth {
        auth.push(match entry {
            RawAuth::File { scheme, credential_file } => {
                Auth { scheme, credential: Secret::File(base.join(credential_file)) }
            }
            RawAuth::Text(text) => {
                // The text is a secret: it is not repeated in the error.
                let (scheme, credential) = text.split_once(':').ok_or((
                    "zookeeper.auth",
                    "an entry is \"digest:user:password\" or { scheme = \"digest\", credential_file = \"...\" }"
                        .to_owned(),
                ))?;
                Auth { scheme: scheme.into(), credential: Secret::Text(credential.into()) }
            }
        });
    }
    let session_timeout =
        duration("zookeeper.session_timeout", raw.session_timeout, Duration::from_secs(10), Duration::from_secs(1))?;
    Ok(ZooKeeper { hosts, prefix: prefix.trim_end_matches('/').into(), auth, session_timeout })
}

fn cgroup(raw: RawCgroup, cpu: &RawCpu) -> Result<Cgroup, Bad> {
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
    let parent = raw.parent.unwrap_or_else(|| "/".into());
    let trimmed = if parent.len() > 1 { parent.trim_end_matches('/') } else { &parent };
    let parent = GroupPath::parse(trimmed).map_err(|e| ("cgroup.parent", e.0))?;
    let identity = Identity { instance: raw.instance.unwrap_or_else(|| "cgrove".into()), parent };
    Ok(Cgroup {
        dir: raw.dir.unwrap_or_else(|| "/sys/fs/cgroup".into()),
        identity,
        policy: Policy { prune, protected, conversion },
        resync: duration("cgroup.resync", raw.resync, Duration::from_secs(60), Duration::from_secs(1))?,
    })
}

fn server(raw: RawServer) -> Result<Server, Bad> {
    let listen = raw.listen.map(OneOrMany::list).unwrap_or_else(|| vec!["127.0.0.1:43409".into()]);
    let listen = listen
        .iter()
        .map(|text| {
            text.parse::<SocketAddr>().map_err(|_| {
                (
                    "server.listen",
                    format!("{text:?} is not an address and port such as \"127.0.0.1:43409\" or \"[::1]:43409\""),
                )
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let allow_from = raw
        .allow_from
        .iter()
        .map(|text| {
            let net = text.parse::<ipnet::IpNet>().or_else(|_| text.parse::<std::net::IpAddr>().map(Into::into));
            net.map_err(|_| ("server.allow_from", format!("{text:?} is not a network such as \"10.0.0.0/8\"")))
        })
        .collect::<Result<Vec<_>, _>>()?;
    if let Some(open) = listen.iter().find(|a| !a.ip().is_loopback())
        && allow_from.is_empty()
        && !raw.insecure
    {
        let why = format!(
            "{open} is reachable from other hosts, without a password: name who may read with server.allow_from = [\"10.0.0.0/8\"], or say server.insecure = true"
        );
        return Err(("server.listen", why));
    }
    Ok(Server {
        listen,
        allow_from,
        insecure: raw.insecure,
        hosts: raw.hosts,
        max_connections: raw.max_connections.unwrap_or(1024).max(1),
    })
}

fn duration(name: &'static str, text: Option<String>, default: Duration, least: Duration) -> Result<Duration, Bad> {
    let Some(text) = text else { return Ok(default) };
    let parsed = humantime::parse_duration(&text)
        .map_err(|_| (name, format!("{text:?} is not a duration such as \"30s\" or \"5m\"")))?;
    if parsed < least {
        return Err((name, format!("{text:?} is less than {}", humantime::format_duration(least))));
    }
    Ok(parsed)
}

fn bytes(text: &str) -> Option<usize> {
    let json = cgrove_core::json::Json::String(text.into());
    match cgrove_core::knobs::parse_value(cgrove_core::knobs::Kind::Bytes, &json) {
        Ok(cgrove_core::knobs::Value::Bytes(n)) => usize::try_from(n).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_env(text: &str, env: &[(&str, &str)]) -> Result<Config, String> {
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        parse(text, "x.toml", Path::new("/base"), env).map_err(|e| e.to_string())
    }

    fn error(text: &str) -> String {
        with_env(text, &[]).unwrap_err()
    }

    const FILE: &str = "[tree]\nsource = \"file\"\npath = \"tree.json\"\n";

    #[test]
    fn defaults_are_cgrouparchs_where_it_had_them() {
        let config = with_env(FILE, &[]).unwrap();
        assert_eq!(config.tree.path, Path::new("/base/tree.json"));
        assert_eq!(config.server.listen, ["127.0.0.1:43409".parse().unwrap()]);
        assert_eq!((config.tasks.interval.as_secs(), config.usage.keep.as_secs()), (30, 300));
        assert_eq!((config.redis.prefix.as_str(), config.usage.store), ("cgroup_arch", StoreKind::Memory));
        assert!(config.parent().is_root());
    }

    #[test]
    fn redis_is_the_store_as_soon_as_it_has_a_url() {
        let config =
            with_env(&format!("node = \"n1\"\n{FILE}[redis]\nurl = \"redis://h:1\"\nprefix = \"x/{{node}}\""), &[])
                .unwrap();
        assert_eq!((config.usage.store, config.redis.prefix.as_str()), (StoreKind::Redis, "x/n1"));
        let config =
            with_env(&format!("{FILE}[redis]\nurl = \"redis://h:1\"\n[usage]\nstore = \"memory\""), &[]).unwrap();
        assert_eq!(config.usage.store, StoreKind::Memory);
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let config = with_env(
            FILE,
            &[("CGROVE_SERVER_LISTEN", "127.0.0.1:1"), ("CGROVE_CGROUP_PROTECTED", "[\"a\"]"), ("PATH", "x")],
        )
        .unwrap();
        assert_eq!(config.server.listen, ["127.0.0.1:1".parse().unwrap()]);
        assert!(with_env(FILE, &[("CGROVE_REDIS_URI", "x")]).unwrap_err().contains("CGROVE_REDIS_URL"));
    }

    #[test]
    fn errors_name_line_setting_and_mend() {
        assert!(
            error("[tree]\nsource = \"file\"\npth = 1\n")
                .starts_with("x.toml:3: unknown setting `tree.pth`; did you mean `tree.path`?")
        );
        assert!(error("[tree]\nsource = \"etcd\"").starts_with("x.toml:2: tree.source: \"etcd\" is not one of"));
        assert!(error("").contains("zookeeper.hosts"));
        assert!(error(&format!("{FILE}[tasks]\ninterval = \"soon\"")).contains("x.toml:5: tasks.interval"));
        assert!(error(&format!("{FILE}[tasks]\ninterval = 5")).contains("line 5"));
        assert!(error(&format!("{FILE}[server]\nlisten = \"0.0.0.0:43409\"")).contains("server.allow_from"));
        assert!(error(&format!("{FILE}[cgroup]\nparent = \"a/../b\"")).contains("cgroup.parent"));
        assert!(error("not toml").contains("x.toml"));
        let secret = error(&format!("{FILE}[zookeeper]\nauth = [\"topsecret\"]"));
        assert!(secret.contains("zookeeper.auth") && !secret.contains("topsecret"));
        assert!(
            !format!("{:?}", with_env(&format!("{FILE}[zookeeper]\nauth = [\"digest:u:topsecret\"]"), &[]))
                .contains("topsecret")
        );
    }

    #[test]
    fn pid_files_by_name_path_and_glob() {
        let text = format!(
            "{FILE}[tasks.pid_files]\nweb = \"/run/w.pid\"\n\"/a/vm-*\" = [\"/run/{{name}}.pid\"]\ntwice = \"/run/t.pid\""
        );
        let config = with_env(&text, &[]).unwrap();
        let paths = ["/web", "/a/vm-1", "/b/vm-1", "/x/twice", "/y/twice"].map(|p| GroupPath::parse(p).unwrap());
        let (files, problems) = config.pid_files(&paths.iter().collect::<Vec<_>>());
        assert_eq!(files[&paths[0]], ["/run/w.pid"]);
        assert_eq!(files[&paths[1]], ["/run/vm-1.pid"]);
        assert_eq!(files.len(), 2);
        assert!(problems[0].contains("/x/twice, /y/twice"));
    }
}
