//! The names of all settings. A test holds config/cgrove.toml against this list.

/// Dotted names; a trailing `.*` takes any key below.
pub(crate) const SETTINGS: &[&str] = &[
    "node",
    "demo",
    "keep_capabilities",
    "tree.source",
    "tree.path",
    "tree.state_dir",
    "tree.trusted_keys",
    "zookeeper.hosts",
    "zookeeper.prefix",
    "zookeeper.auth",
    "zookeeper.session_timeout",
    "zookeeper.tls_ca",
    "zookeeper.tls_certificate",
    "zookeeper.tls_key",
    "zookeeper.require_safe_acl",
    "zookeeper.accept_older",
    "cgroup.dir",
    "cgroup.parent",
    "cgroup.prune",
    "cgroup.protected",
    "cgroup.resync",
    "cgroup.instance",
    "cgroup.marks",
    "cpu.conversion",
    "tasks.interval",
    "tasks.pid_files.*",
    "tasks.follow_symlinks",
    "tasks.rules",
    "tasks.proc_events",
    "usage.store",
    "usage.keep",
    "usage.memory",
    "usage.collect",
    "events.keep",
    "events.pressure",
    "metrics.groups",
    "redis.url",
    "redis.cluster",
    "redis.password_file",
    "redis.prefix",
    "redis.compression",
    "redis.tls_ca",
    "redis.tls_certificate",
    "redis.tls_key",
    "server.listen",
    "server.allow_from",
    "server.insecure",
    "server.trust_loopback",
    "server.hosts",
    "server.max_connections",
    "server.idle_timeout",
    "server.tls_certificate",
    "server.tls_key",
    "server.tls_client_ca",
    "server.tls_client_roles",
    "server.tokens",
];

/// What is wrong with a key, if anything: unknown, with the nearest known one.
pub(crate) fn unknown(dotted: &str, is_table: bool) -> Option<String> {
    let section = |s: &&str| s.split('.').next() == Some(dotted);
    let known = if is_table {
        SETTINGS.iter().any(|s| section(s) && s.contains('.')) || SETTINGS.contains(&format!("{dotted}.*").as_str())
    } else {
        SETTINGS.contains(&dotted)
            || SETTINGS.iter().any(|s| s.strip_suffix('*').is_some_and(|p| dotted.starts_with(p)))
    };
    if known {
        return None;
    }
    let names = SETTINGS.iter().map(|s| s.trim_end_matches(".*"));
    let sections = SETTINGS.iter().filter_map(|s| Some(s.split_once('.')?.0));
    let last = dotted.rsplit('.').next().unwrap_or(dotted);
    // A known key in the wrong section is the likeliest slip.
    let elsewhere = names.clone().find(|n| n.rsplit('.').next() == Some(last));
    let nearest = elsewhere.or_else(|| cgrove_core::document::nearest(dotted, names.chain(sections)));
    let hint = nearest.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
    Some(format!("unknown setting `{dotted}`{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered() {
        assert_eq!(unknown("tree.source", false), None);
        assert_eq!(unknown("tasks.pid_files.web", false), None);
        assert!(unknown("tree.sorce", false).unwrap().contains("`tree.source`"));
        assert!(unknown("listen", false).unwrap().contains("`server.listen`"));
        assert!(unknown("zookeper", true).unwrap().contains("`zookeeper"));
    }

    #[test]
    fn the_reference_file_explains_every_setting_and_no_other() {
        let text = include_str!("../../../config/cgrove.toml");
        let mut section = Some(String::new());
        let mut explained = Vec::new();
        for line in text.lines() {
            let line = line.strip_prefix('#').unwrap_or(line).trim();
            if let Some(name) = line.strip_prefix("[[").and_then(|l| l.strip_suffix("]]")) {
                // The keys of a list's entries are checked where it is read.
                explained.push(name.to_owned());
                section = None;
            } else if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                section = Some(format!("{name}."));
            } else if let Some((key, _)) = line.split_once(" = ").filter(|(k, _)| !k.contains(' ')) {
                explained.extend(section.as_ref().map(|section| format!("{section}{key}")));
            }
        }
        for name in &explained {
            assert!(unknown(name, false).is_none(), "{name} is no setting");
        }
        for name in SETTINGS {
            let prefix = name.trim_end_matches('*');
            assert!(explained.iter().any(|e| e.starts_with(prefix)), "{name} is not in config/cgrove.toml");
        }
    }
}
