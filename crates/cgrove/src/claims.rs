//! What pid files say: which there are, where they are watched, and whom they name. They lie in directories of others,
//! which may never answer: then what they said last counts. Blocking, for at most a few seconds.

use std::cell::OnceCell;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cgrove_cgroupfs::outside::{GLOBS, Key, Mounts, PID_FILES, Unknown};
use cgrove_cgroupfs::{pidfile, view};
use cgrove_config::Config;
use cgrove_core::desired::Desired;
use cgrove_core::ids::GroupPath;
use cgrove_core::placement::Claim;

use crate::globs::{self, Found, is_glob};

/// Directories that are watched; files elsewhere are seen at the next `tasks.interval`.
const MOST_WATCHES: usize = 256;

/// What answered last.
#[derive(Debug, Default)]
pub(crate) struct Answers(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    globs: HashMap<String, Found>,
    files: HashMap<PathBuf, (i32, u64)>,
    /// The file, and the glob, that the next look begins with: those that there was no time for come first.
    next: usize,
    next_glob: usize,
}

/// The process that a file names, by pid and start time, and what is wrong with the file.
pub(crate) type Named = (Option<(i32, u64)>, Option<String>);

/// Pid files of one configuration.
pub(crate) struct Files<'a> {
    pub(crate) config: &'a Config,
    pub(crate) answers: &'a Answers,
}

impl Files<'_> {
    /// Every pid that a source names, in document order; and what is wrong with some.
    pub(crate) fn claims(&self, desired: &Desired) -> (Vec<Claim>, Vec<String>) {
        let (mut configured, mut problems) = self.config.pid_files(&desired.groups.keys().collect::<Vec<_>>());
        let mut patterns: Vec<(&GroupPath, String)> = Vec::new();
        for (path, group) in &desired.groups {
            let more = configured.remove(path).unwrap_or_default();
            patterns.extend(group.pid_files.iter().cloned().chain(more).map(|pattern| (path, pattern)));
        }
        let found = self.expand(patterns.iter().map(|(_, pattern)| pattern.clone()).collect());
        let mut files: Vec<(&GroupPath, PathBuf)> = Vec::new();
        for ((path, pattern), (found, unknown)) in patterns.iter().zip(found) {
            problems.extend(unknown.map(|why| format!("{pattern}: {why} ({path})")));
            problems.extend(found.cut.map(|cut| format!("{pattern}: {cut}: name fewer directories ({path})")));
            files.extend(found.files.into_iter().map(|file| (*path, file)));
        }
        let directories: BTreeSet<&Path> =
            patterns.iter().map(|(_, p)| globs::fixed(p)).chain(files.iter().filter_map(|(_, f)| f.parent())).collect();
        if directories.len() > MOST_WATCHES {
            let (all, each) = (directories.len(), self.config.tasks.interval.as_secs_f64());
            problems.push(format!("pid files lie in {all} directories, of which {MOST_WATCHES} are watched: changes in the others are seen each {each} s (tasks.interval)"));
        }
        let named = self.processes(files.iter().map(|(_, file)| file.clone()).collect());
        let mut claims = Vec::new();
        for ((path, file), (process, problem)) in files.into_iter().zip(named) {
            problems.extend(problem.map(|why| format!("{}: {why} ({path})", file.display())));
            claims.extend(process.map(|(pid, start)| Claim {
                group: path.clone(),
                pid,
                start,
                source: file.display().to_string(),
            }));
        }
        (claims, problems)
    }

    /// Whom each file names, and what is wrong with it. One that does not answer names whom it named last.
    pub(crate) fn processes(&self, files: Vec<PathBuf>) -> Vec<Named> {
        let mut known = self.answers.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, turned) = turned(&files, known.next);
        let (mounts, follow) = (OnceCell::new(), self.config.tasks.follow_symlinks);
        let key = |file: &PathBuf| key(&mounts, file);
        let mut answers = PID_FILES.each(turned, key, move |file| pidfile::read(file, follow));
        known.next = next(&answers, first);
        answers.rotate_right(first);
        if known.files.len() > 4 * files.len() + 1000 {
            known.files.retain(|file, _| files.contains(file));
        }
        let told = files.into_iter().zip(answers).map(|(file, answer)| match answer {
            Ok(Ok(process)) => {
                known.files.insert(file, process);
                (Some(process), None)
            }
            Ok(Err(why)) => {
                known.files.remove(&file);
                (None, Some(why))
            }
            Err(unknown) => (known.files.get(&file).copied(), Some(unknown.to_string())),
        });
        told.collect()
    }

    /// What each pattern means; a plain path means itself.
    fn expand(&self, patterns: Vec<String>) -> Vec<(Found, Option<Unknown>)> {
        let mounts = OnceCell::new();
        let globs: BTreeSet<String> = patterns.iter().filter(|p| is_glob(p)).cloned().collect();
        let globs: Vec<String> = globs.into_iter().collect();
        let mut known = self.answers.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answers: HashMap<String, (Found, Option<Unknown>)> = HashMap::new();
        if !globs.is_empty() {
            let key = |pattern: &String| key(&mounts, &globs::fixed(pattern).join("."));
            let (first, turned) = turned(&globs, known.next_glob);
            let mut found = GLOBS.each(turned, key, |pattern| everywhere(pattern));
            known.next_glob = next(&found, first);
            found.rotate_right(first);
            known.globs.retain(|pattern, _| globs.contains(pattern));
            for (pattern, answer) in globs.into_iter().zip(found) {
                let answer = match answer {
                    Ok(found) => {
                        known.globs.insert(pattern.clone(), found.clone());
                        (found, None)
                    }
                    Err(unknown) => (known.globs.get(&pattern).cloned().unwrap_or_default(), Some(unknown)),
                };
                answers.insert(pattern, answer);
            }
        }
        let plain = |pattern: &String| (Found { files: vec![pattern.into()], cut: None }, None);
        patterns.iter().map(|pattern| answers.get(pattern).cloned().unwrap_or_else(|| plain(pattern))).collect()
    }

    /// The directories in which pid files may appear, to be watched.
    pub(crate) fn directories(&self, desired: &Desired) -> BTreeSet<PathBuf> {
        let (configured, _) = self.config.pid_files(&desired.groups.keys().collect::<Vec<_>>());
        let patterns = desired.groups.values().flat_map(|g| &g.pid_files).chain(configured.values().flatten());
        let patterns: Vec<String> = patterns.cloned().collect();
        // New files appear here.
        let mut out: BTreeSet<PathBuf> =
            patterns.iter().map(|p| globs::fixed(p).to_owned()).take(MOST_WATCHES).collect();
        let globs = patterns.into_iter().filter(|p| is_glob(p)).collect();
        let files = self.expand(globs).into_iter().flat_map(|(found, _)| found.files);
        for dir in files.filter_map(|file| file.parent().map(Path::to_owned)) {
            if out.len() >= MOST_WATCHES {
                break;
            }
            out.insert(dir);
        }
        out
    }
}

/// All of them, beginning with another one.
fn turned<T: Clone>(items: &[T], first: usize) -> (usize, Vec<T>) {
    let first = if items.is_empty() { 0 } else { first % items.len() };
    let mut turned = items.to_vec();
    turned.rotate_left(first);
    (first, turned)
}

/// The first one that there was no time for.
fn next<T>(answers: &[Result<T, Unknown>], first: usize) -> usize {
    answers.iter().position(|a| matches!(a, Err(Unknown::Late))).map_or(0, |late| first + late)
}

fn key(mounts: &OnceCell<Mounts>, file: &Path) -> Key {
    mounts.get_or_init(Mounts::now).key(file, 0)
}

/// Here, and as init finds it.
fn everywhere(pattern: &str) -> Found {
    let mut found = globs::expand(Path::new("/"), pattern);
    if let Some(root) = view::hidden_root() {
        let theirs = globs::expand(&root, pattern);
        found.cut = found.cut.or(theirs.cut);
        found.files.extend(theirs.files);
        found.files.sort();
        found.files.dedup();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_came_late_come_first_the_next_time() {
        let (first, items) = turned(&[0, 1, 2, 3], 6);
        assert_eq!((first, &items[..]), (2, &[2, 3, 0, 1][..]));
        assert_eq!(next(&[Ok(2), Ok(3), Ok(0), Err(Unknown::Late)], first) % 4, 1);
        assert_eq!(next(&[Ok(2), Err::<i32, _>(Unknown::Silent)], first), 0);
        assert_eq!(turned::<i32>(&[], 5), (0, Vec::new()));
    }

    #[test]
    fn files_are_found_read_and_watched_within_bounds() {
        let dir = std::env::temp_dir().join(format!("cgrove-claims-{}", std::process::id()));
        for n in 0..300 {
            std::fs::create_dir_all(dir.join(format!("{n:03}"))).unwrap();
            std::fs::write(dir.join(format!("{n:03}/y.pid")), format!("{}\n", std::process::id())).unwrap();
        }
        let text = "[tree]\nsource = \"file\"\npath = \"/t\"\n";
        let config = cgrove_config::parse(text, "x.toml", "/".as_ref(), std::iter::empty()).unwrap();
        let document = format!(r#"{{"groups": {{"a": {{"pid_files": ["{0}/*/y.pid", "{0}/none"]}}}}}}"#, dir.display());
        let desired = cgrove_core::document::parse(document.as_bytes()).unwrap();
        let answers = Answers::default();
        let files = Files { config: &config, answers: &answers };
        let (claims, problems) = files.claims(&desired);
        assert_eq!((claims.len(), problems.len()), (300, 2), "{problems:?}");
        assert!(problems.iter().any(|p| p.starts_with("pid files lie in 301 directories")), "{problems:?}");
        assert_eq!(files.directories(&desired).len(), MOST_WATCHES);
        assert!(files.directories(&desired).contains(&dir));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
