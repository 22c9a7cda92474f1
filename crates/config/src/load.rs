//! File and environment to [`Config`], with errors that name the file, the line, the setting and the mend.

use std::path::Path;

use crate::Config;
use crate::build::build;
use crate::files;
use crate::names::{SETTINGS, unknown};
use crate::raw::Raw;

/// A configuration that cannot be used; one line for people. Exit code 78.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// The environment, as far as it is text.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
}

/// Reads `path` and the environment. Relative paths in the file are relative to the file.
pub fn load(path: &Path, env: impl Iterator<Item = (String, String)>) -> Result<Config, ConfigError> {
    let text = files::named_text(path, files::CONFIGURATION).map_err(|e| {
        ConfigError(format!(
            "{}: {e}; name a configuration with --config FILE (config/cgrove.toml explains every setting)",
            path.display()
        ))
    })?;
    let base = std::fs::canonicalize(path).ok().and_then(|p| p.parent().map(Path::to_owned)).unwrap_or_default();
    parse(&text, &path.display().to_string(), &base, env)
}

/// The defaults alone, for commands that look at a document by itself.
pub fn standard(env: impl Iterator<Item = (String, String)>) -> Result<Config, ConfigError> {
    parse("[tree]\nsource = \"file\"\npath = \"/dev/null\"\n", "the defaults", Path::new("/"), env)
}

/// The text of a configuration and an environment. `file` is how errors name it, `base` what its paths are relative to.
/// Touches no file.
pub fn parse(
    text: &str,
    file: &str,
    base: &Path,
    env: impl Iterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let mut table: toml::Table = toml::from_str(text).map_err(|e| quiet(text, file, &e))?;
    check_names(&table, "").map_err(|(name, why)| ConfigError(format!("{file}:{}: {why}", line_of(text, &name))))?;
    let typed = toml::Deserializer::parse(text).map_err(|e| quiet(text, file, &e))?;
    serde_path_to_error::deserialize::<_, Raw>(typed).map_err(|e| mistyped(&e, |name| place(text, file, name)))?;
    let mut from_env = Vec::new();
    for (key, value) in env {
        from_env.push(key.clone());
        // Not an error: the environment is shared with others, the file is ours alone.
        if let Some(unknown) = merge_env(&mut table, &key, &value) {
            tracing::warn!("{unknown}");
        }
    }
    let set_by = |name: &str| {
        let variable = format!("CGROVE_{}", name.replace('.', "_").to_uppercase());
        let from_env = from_env.contains(&variable);
        if from_env { format!("environment variable {variable}") } else { place(text, file, name) }
    };
    let raw: Raw = serde_path_to_error::deserialize(toml::Value::Table(table)).map_err(|e| mistyped(&e, set_by))?;
    build(raw, base).map_err(|(name, why)| ConfigError(format!("{}: {name}: {why}", set_by(name))))
}

/// `x.toml:3`, or the file alone where the setting is not in it.
fn place(text: &str, file: &str, name: &str) -> String {
    match line_of(text, name) {
        0 => file.to_owned(),
        line => format!("{file}:{line}"),
    }
}

/// A value of another type than its setting has, without serde's words.
fn mistyped(e: &serde_path_to_error::Error<toml::de::Error>, place: impl Fn(&str) -> String) -> ConfigError {
    // `events.pressure[0]` is set where `events.pressure` is.
    let path = e.path().to_string();
    let name = path.split('[').next().unwrap_or(&path);
    let message = e.inner().message().trim();
    let why = match message.rsplit_once(", expected ") {
        Some((what, wanted)) => {
            let wanted = match wanted {
                "usize" | "u64" | "u32" => "a whole number, 0 or more",
                "a boolean" => "true or false",
                "a string" => "text in quotes",
                "path string" => "a path in quotes",
                "a sequence" => "a list in brackets",
                "a map" => "a table",
                other => other,
            };
            let what = what.strip_prefix("invalid type: ").or(what.strip_prefix("invalid value: ")).unwrap_or(what);
            format!("{what} does not fit: must be {wanted}")
        }
        None => message.to_owned(),
    };
    ConfigError(format!("{}: {name}: {why}", place(name)))
}

/// What the parser says, with the line but without its text: that may hold a secret.
fn quiet(text: &str, file: &str, e: &toml::de::Error) -> ConfigError {
    let line = e.span().and_then(|span| text.get(..span.start)).map_or(0, |before| 1 + before.matches('\n').count());
    ConfigError(format!("{file}:{line}: {}", e.message()))
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

/// `CGROVE_REDIS_URL=...` sets `redis.url`: a TOML value where it reads as one, else a string. Says what is no setting.
fn merge_env(table: &mut toml::Table, key: &str, value: &str) -> Option<String> {
    let name = key.strip_prefix("CGROVE_")?;
    let matches = |s: &&&str| s.replace('.', "_").eq_ignore_ascii_case(name);
    // CGROVE_CONFIG, CGROVE_OUTPUT and CGROVE_LOG belong to the command line.
    if matches!(name, "CONFIG" | "OUTPUT" | "LOG" | "LOG_FORMAT") {
        return None;
    }
    let Some(setting) = SETTINGS.iter().find(matches) else {
        let names = SETTINGS.iter().filter(|s| !s.ends_with('*')).map(|s| s.replace('.', "_")).collect::<Vec<_>>();
        let hint = cgrove_core::document::nearest(&name.to_lowercase(), names.iter().map(String::as_str));
        let hint = hint.map(|n| format!("; did you mean CGROVE_{}?", n.to_uppercase())).unwrap_or_default();
        return Some(format!("environment variable {key} sets nothing{hint}"));
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
    None
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

#[cfg(test)]
mod tests {
    use cgrove_core::ids::GroupPath;

    use super::*;
    use crate::{Address, StoreKind};

    fn with_env(text: &str, env: &[(&str, &str)]) -> Result<Config, String> {
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        parse(text, "x.toml", Path::new("/base"), env).map_err(|e| e.to_string())
    }

    fn error(text: &str) -> String {
        with_env(text, &[]).unwrap_err()
    }

    const FILE: &str = "[tree]\nsource = \"file\"\npath = \"tree.json\"\n";

    #[test]
    fn a_value_of_another_type_is_told_with_its_setting() {
        let wrong = |line: &str| error(&format!("{FILE}{line}"));
        assert_eq!(
            wrong("[events]\nkeep = \"x\""),
            "x.toml:5: events.keep: string \"x\" does not fit: must be a whole number, 0 or more"
        );
        assert!(wrong("[usage]\ncollect = 1.5").starts_with("x.toml:5: usage.collect: must be text in quotes"));
        assert!(wrong("[events]\npressure = [7]").starts_with("x.toml:5: events.pressure: integer `7`"));
        let from_env = with_env(FILE, &[("CGROVE_METRICS_GROUPS", "many")]).unwrap_err();
        assert!(
            from_env.starts_with("environment variable CGROVE_METRICS_GROUPS: metrics.groups: string"),
            "{from_env}"
        );
    }

    #[test]
    fn defaults_are_cgrouparchs_where_it_had_them() {
        let config = with_env(FILE, &[]).unwrap();
        assert_eq!(config.tree.path, Path::new("/base/tree.json"));
        assert_eq!(config.server.listen, [Address::Tcp("127.0.0.1:43409".parse().unwrap())]);
        assert_eq!((config.tasks.interval.as_secs(), config.usage.keep.as_secs()), (30, 300));
        assert_eq!((config.redis.prefix.as_str(), config.usage.store), ("cgroup_arch", StoreKind::Memory));
        assert_eq!((config.parents().v1.as_str(), config.parents().v2.as_str()), ("/", "/cgrove"));
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
        assert_eq!(config.server.listen, [Address::Tcp("127.0.0.1:1".parse().unwrap())]);
        let text =
            with_env(&format!("{FILE}[tasks]\ninterval = \"2s\""), &[("CGROVE_TASKS_INTERVAL", "x")]).unwrap_err();
        assert!(text.starts_with("environment variable CGROVE_TASKS_INTERVAL: "), "{text}");
        let hint = merge_env(&mut toml::Table::new(), "CGROVE_REDIS_URI", "x").unwrap();
        assert!(hint.contains("did you mean CGROVE_REDIS_URL?"), "{hint}");
        assert!(with_env(FILE, &[("CGROVE_BIN", "x")]).is_ok());
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
        assert!(error(&format!("{FILE}[tasks]\ninterval = 5")).contains("x.toml:5: "));
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
        let (_, problems) = with_env(&format!("{FILE}[tasks.pid_files]\nwbe = \"/run/w.pid\"\n\"x*\" = \"/x\""), &[])
            .unwrap()
            .pid_files(&[&paths[0]]);
        assert_eq!(problems, ["tasks.pid_files.\"wbe\": the document has no such group"]);
    }
}
