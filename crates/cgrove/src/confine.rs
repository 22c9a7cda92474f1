//! Landlock: the threads that read what strangers and servers send write only where the daemon keeps things. The hands,
//! begun before, are outside: under Landlock nobody may look at `/proc/PID` of processes of others.

use std::path::{Path, PathBuf};

use landlock::{ABI, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope, path_beneath_rules};
use serde::Serialize;

use cgrove_config::{Address, Config};
use cgrove_state::StateDir;

/// What was given up, for the status.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Confinement {
    pub(crate) enforced: Enforced,
    /// The only places that these threads may write to.
    pub(crate) writable: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Enforced {
    Fully,
    /// An older kernel: what it knows of it.
    Partly,
    /// No Landlock in this kernel, or it is not allowed.
    #[default]
    Not,
}

/// The newest rights that are given up where the kernel has them.
const NEWEST: ABI = ABI::V6;

/// Confines this thread and all that it will start.
pub(crate) fn confine(config: &Config) -> Confinement {
    // Rules name what exists; whether it is fit is said when it is opened.
    let _ = StateDir::new(&config.tree.state_dir).prepare();
    let mut writable: Vec<PathBuf> = wanted(config).iter().map(|place| real(place)).collect();
    writable.sort();
    writable.dedup();
    writable.retain(|place| place.is_dir());
    for place in writable.iter().filter(|place| config.cgroup.dir.starts_with(place) || place.components().count() < 3)
    {
        tracing::warn!(
            "{}: everything below it stays open to every thread (Landlock); give server.listen's socket, or tree.state_dir, a directory of its own",
            place.display()
        );
    }
    let rights = AccessFs::from_write(NEWEST);
    let places = writable.iter().map(PathBuf::as_path).chain([Path::new("/dev/null")]);
    let confined = Ruleset::default()
        .handle_access(rights)
        .and_then(|rules| rules.scope(Scope::Signal))
        .and_then(|rules| rules.create())
        .and_then(|rules| rules.add_rules(path_beneath_rules(places, rights)))
        .and_then(|rules| rules.restrict_self());
    let enforced = match confined.map(|status| status.ruleset) {
        Ok(RulesetStatus::FullyEnforced) => Enforced::Fully,
        Ok(RulesetStatus::PartiallyEnforced) => Enforced::Partly,
        Ok(RulesetStatus::NotEnforced) => Enforced::Not,
        Err(e) => {
            tracing::warn!("Landlock: {e}");
            Enforced::Not
        }
    };
    Confinement { enforced, writable }
}

/// Where the daemon keeps things: its state, and the sockets that it makes.
fn wanted(config: &Config) -> Vec<PathBuf> {
    let sockets = config.server.listen.iter().filter_map(|address| match address {
        Address::Unix(path) => path.parent().map(Path::to_owned),
        Address::Tcp(_) => None,
    });
    let runtime = std::env::var("RUNTIME_DIRECTORY").unwrap_or_default();
    let runtime: Vec<PathBuf> = runtime.split(':').filter(|d| d.starts_with('/')).map(Into::into).collect();
    sockets.chain(runtime).chain([config.tree.state_dir.clone()]).collect()
}

/// The place as the kernel knows it, as far as it exists.
fn real(place: &Path) -> PathBuf {
    let known = |p: &Path| std::fs::canonicalize(p).ok();
    let found = place.ancestors().find_map(|p| Some((known(p)?, place.strip_prefix(p).ok()?)));
    // Component by component: an empty rest would leave a slash behind.
    found.map_or_else(|| place.to_owned(), |(base, rest)| base.components().chain(rest.components()).collect())
}

impl Confinement {
    /// What a reload may not ask for any more: a place that was closed at the start.
    pub(crate) fn allows(&self, config: &Config) -> Result<(), String> {
        let open = |place: &PathBuf| self.writable.iter().any(|w| real(place).starts_with(w));
        match wanted(config).into_iter().find(|place| self.enforced != Enforced::Not && !open(place)) {
            Some(place) => Err(format!(
                "{}: since its start the daemon may not write there (Landlock): restart it for another tree.state_dir, or a socket in another directory",
                place.display()
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_confined_writes_where_things_are_kept_and_nowhere_else() {
        let dir = std::env::temp_dir().join(format!("cgrove-confine-{}", std::process::id()));
        let text = format!("[tree]\nsource = \"file\"\npath = \"x\"\nstate_dir = {:?}\n", dir.join("state"));
        let parsed = |text: &str| cgrove_config::parse(text, "test", Path::new("/"), std::iter::empty()).unwrap();
        let config = parsed(&text);
        std::fs::create_dir_all(dir.join("elsewhere")).unwrap();
        let there = dir.clone();
        let inside = std::thread::spawn(move || {
            let confinement = confine(&config);
            let write = |place: &str| std::fs::write(there.join(place).join("file"), "x").is_ok();
            let again = std::thread::scope(|scope| scope.spawn(|| write("elsewhere")).join().unwrap());
            (confinement, write("state"), write("elsewhere"), again)
        });
        let (confinement, state, elsewhere, again) = inside.join().unwrap();
        let free = std::fs::write(dir.join("elsewhere/file"), "x").is_ok();
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(state && free);
        if confinement.enforced == Enforced::Not {
            println!("!!! Landlock was not tested: this kernel has none");
            return;
        }
        assert!(!elsewhere && !again);
        assert!(confinement.allows(&parsed(&text)).is_ok());
        let moved = parsed(&text.replace("/state", "/other"));
        assert!(confinement.allows(&moved).unwrap_err().contains("restart"));
    }
}
