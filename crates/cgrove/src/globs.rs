//! Globs over directories of others: how much is looked at, and for how long, is bounded. Blocking, and may hang: done in
//! threads that can be left behind.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cgrove_cgroupfs::walk;
use rustix::fs::{AtFlags, Dir, statat};

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

/// What is left of the bounds, for where it is now.
struct Walk {
    matches: usize,
    entries: usize,
    ends: Instant,
    found: Found,
}

impl Walk {
    fn all(mut self, root: &Path, pattern: &str) -> Found {
        let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
        if let Ok(root) = File::open(root) {
            self.below(root.as_fd(), Path::new("/"), &parts);
        }
        self.found
    }

    fn below(&mut self, root: BorrowedFd<'_>, path: &Path, parts: &[&str]) {
        let Some((part, rest)) = parts.split_first() else {
            return self.add(root, path);
        };
        if !is_glob(part) {
            return self.below(root, &path.join(part), rest);
        }
        let Ok(pattern) = glob::Pattern::new(part) else { return };
        let mut names = Vec::new();
        // A link that is not root's is not followed: it would show its owner what he may not see.
        let listing = walk::directory(root, path).ok().and_then(|dir| Dir::new(dir).ok());
        for entry in listing.into_iter().flatten().flatten() {
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            if self.entries == 0 {
                self.found.cut = Some("10,000 entries of directories were looked at, more are not looked at");
                break;
            }
            if self.is_late() {
                break;
            }
            self.entries -= 1;
            // What cannot be written in a document cannot be meant by one.
            names.extend(entry.file_name().to_str().ok().filter(|name| pattern.matches(name)).map(str::to_owned));
        }
        names.sort();
        for (nth, name) in names.iter().enumerate() {
            if self.is_late() || self.is_full() {
                return;
            }
            // Whoever fills one directory leaves the others their part.
            let (matches, entries, left) = (self.matches, self.entries, names.len() - nth);
            let part = (matches.div_ceil(left), entries.div_ceil(left));
            (self.matches, self.entries) = part;
            self.below(root, &path.join(name), rest);
            self.matches += matches - part.0;
            self.entries += entries - part.1;
        }
    }

    fn add(&mut self, root: BorrowedFd<'_>, path: &Path) {
        let stands = |found: walk::Found| statat(&found.above, &*found.name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        if walk::from(root, path, false).is_ok_and(stands) && !self.is_full() {
            self.matches -= 1;
            self.found.files.push(path.to_owned());
        }
    }

    fn is_full(&mut self) -> bool {
        let full = self.matches == 0;
        if full {
            self.found.cut = Some("1,000 files match, more are not looked at");
        }
        full
    }

    fn is_late(&mut self) -> bool {
        let late = Instant::now() >= self.ends;
        if late {
            self.found.cut = Some("it took half a second, what comes later is not looked at");
        }
        late
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
    fn a_full_directory_leaves_the_others_their_part() {
        let one = (0..50).map(|n| format!("d/a/{n:02}.pid"));
        let dir = tree("part", one.chain(["d/b/x.pid".to_owned(), "d/c/x.pid".to_owned()]));
        let ends = Instant::now() + Duration::from_secs(60);
        let walk =
            |matches, entries, pattern| Walk { matches, entries, ends, found: Found::default() }.all(&dir, pattern);
        let names = |found: &Found| found.files.iter().filter(|f| f.ends_with("x.pid")).count();
        for (matches, entries) in [(12, 1000), (1000, 40)] {
            let found = walk(matches, entries, "/d/*/*.pid");
            assert_eq!((names(&found), found.cut.is_some()), (2, true), "{found:?}");
        }
        // What the others do not need is not kept from the last one.
        let found = walk(52, 55, "/d/*/*.pid");
        assert_eq!((names(&found), found.files.len() < 52), (2, true));
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
