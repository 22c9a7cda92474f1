//! Globs over directories of others: how much is looked at, and for how long, is bounded. Blocking, and may hang: done in
//! threads that can be left behind.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Files that one pattern may mean.
const MATCHES: usize = 1000;
/// Entries of directories that are looked at for one pattern.
const ENTRIES: usize = 10_000;
const TIME: Duration = Duration::from_millis(500);

/// What a pattern means now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// In name order, directory by directory.
    pub(crate) files: Vec<PathBuf>,
    /// The bound that was reached: there may be more.
    pub(crate) cut: Option<&'static str>,
}

pub(crate) fn is_glob(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// The directory in which a pattern's first glob, or the plain file, is looked for.
pub(crate) fn fixed(pattern: &str) -> &Path {
    let mut fixed = Path::new(pattern);
    while let Some(up) = fixed.parent() {
        fixed = up;
        if !is_glob(&fixed.to_string_lossy()) {
            break;
        }
    }
    fixed
}

/// The files below `root` (which stands for `/`) that an absolute pattern means, without `root`.
pub(crate) fn expand(root: &Path, pattern: &str) -> Found {
    Walk { matches: MATCHES, entries: ENTRIES, ends: Instant::now() + TIME, found: Found::default() }.all(root, pattern)
}

struct Walk {
    matches: usize,
    entries: usize,
    ends: Instant,
    found: Found,
}

impl Walk {
    fn all(mut self, root: &Path, pattern: &str) -> Found {
        let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
        self.below(root, Path::new("/"), &parts);
        self.found
    }

    /// `dir` is where we look, `path` what it is called.
    fn below(&mut self, dir: &Path, path: &Path, parts: &[&str]) {
        let Some((part, rest)) = parts.split_first() else {
            if dir.symlink_metadata().is_ok() {
                self.found.files.push(path.to_owned());
            }
            return;
        };
        if !is_glob(part) {
            return self.below(&dir.join(part), &path.join(part), rest);
        }
        let Ok(pattern) = glob::Pattern::new(part) else { return };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if self.entries == 0 {
                self.found.cut = Some("10,000 entries of directories were looked at, more are not looked at");
                break;
            }
            if self.is_over() {
                break;
            }
            self.entries -= 1;
            // What cannot be written in a document cannot be meant by one.
            names.extend(entry.file_name().into_string().ok().filter(|name| pattern.matches(name)));
        }
        names.sort();
        for name in names {
            self.below(&dir.join(&name), &path.join(&name), rest);
            if self.is_over() {
                return;
            }
        }
    }

    fn is_over(&mut self) -> bool {
        let cut = if self.found.files.len() >= self.matches {
            "1,000 files match, more are not looked at"
        } else if Instant::now() >= self.ends {
            "it took half a second, what comes later is not looked at"
        } else {
            return false;
        };
        self.found.cut = Some(cut);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(name: &str, files: impl IntoIterator<Item = String>) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("cgrove-globs-{name}-{}", std::process::id()));
        for file in files {
            let file = dir.join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "1").unwrap();
        }
        dir
    }

    #[test]
    fn it_finds_what_the_glob_crate_finds() {
        let files = ["run/a/x.pid", "run/a/y.pid", "run/b/x.pid", "run/b/z.txt", "run/.hidden/x.pid", "run/c.pid"];
        let dir = tree("same", files.map(str::to_owned));
        std::os::unix::fs::symlink(&dir, dir.join("run/loop")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.join("run/a/dangling.pid")).unwrap();
        for pattern in [
            "/run/*/x.pid",
            "/run/*/*.pid",
            "/run/[ab]/?.pid",
            "/*/*",
            "/run/c.pid",
            "/none/*",
            "/run/*/loop/run/a/x.pid",
        ] {
            let found = expand(&dir, pattern);
            let expected = glob::glob(&format!("{}{pattern}", dir.display())).unwrap().flatten();
            let expected: Vec<PathBuf> = expected.map(|p| Path::new("/").join(p.strip_prefix(&dir).unwrap())).collect();
            assert_eq!(found, Found { files: expected, cut: None }, "{pattern}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn bounds_are_kept_and_told() {
        let dir = tree("bounds", (0..60).map(|n| format!("d/{n:02}/x.pid")));
        let far = Instant::now() + Duration::from_secs(60);
        let walk = |matches, entries, ends| {
            let found = Walk { matches, entries, ends, found: Found::default() }.all(&dir, "/d/*/*.pid");
            (found.files.len(), found.cut.map(|cut| cut.split(' ').next().unwrap_or_default()))
        };
        assert_eq!(walk(1000, 1000, far), (60, None));
        assert_eq!(walk(10, 1000, far), (10, Some("1,000")));
        assert_eq!(walk(1000, 61, far), (1, Some("10,000")));
        assert_eq!(walk(1000, 1000, Instant::now()), (0, Some("it")));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn where_a_pattern_begins() {
        let of = |pattern| fixed(pattern).to_str().unwrap();
        assert_eq!(
            [of("/run/x/*.pid"), of("/run/*/x.pid"), of("/run/x.pid"), of("/*.pid")],
            ["/run/x", "/run", "/run", "/"]
        );
    }
}
