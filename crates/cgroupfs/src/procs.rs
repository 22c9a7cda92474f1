//! One pass over /proc: every process with its parent, start time and kind.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cgrove_core::placement::{Process, Processes};
use cgrove_core::rules::{AllTraits, Needs, Traits};

use rustix::fs::{CWD, Dir, Mode, OFlags, openat};

use crate::file::{self, proc_dir};
use crate::outside::{COMMAND_LINES, Key, Lane, Mounts, PROGRAMS, Unknown};
use crate::view;

/// Names have 16 bytes, 64 for kernel threads; some fifty numbers follow, of 20 digits at most.
const LONGEST_STAT: usize = 2048;
/// As much of a command line as rules see.
const LONGEST_COMMAND: u64 = 4096;

/// No user has this number (see setreuid(2)).
const NOBODYS: u32 = u32::MAX;

/// Set in a kernel thread's flags (include/linux/sched.h).
const PF_KTHREAD: u64 = 0x0020_0000;
const PF_EXITING: u64 = 0x0000_0004;

/// All processes, with what rules look at besides. Ones that vanish during the pass are left out.
pub fn scan(needs: Needs) -> (Processes, AllTraits) {
    let (mut out, mut traits) = (Processes::new(), AllTraits::new());
    scan_again(needs, &mut out, &mut traits);
    (out, traits)
}

/// Adds those that were born since, and says which; leaves out those that are gone.
pub fn scan_again(needs: Needs, processes: &mut Processes, traits: &mut AllTraits) -> HashSet<i32> {
    let (mut born, mut listed) = (HashSet::new(), HashSet::new());
    let Ok(proc) = std::fs::File::open("/proc") else { return born };
    let mut buffer = [0; LONGEST_STAT];
    let mut look = Look::new(needs);
    for entry in Dir::read_from(&proc).into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().ok().and_then(|n| n.parse::<i32>().ok()) else { continue };
        listed.insert(pid);
        if processes.contains_key(&pid) {
            continue;
        }
        let Some(process) = stat(proc.as_fd(), format!("{pid}/stat"), &mut buffer) else { continue };
        if needs.any() && !process.kernel {
            look.begin(pid);
        }
        processes.insert(pid, process);
        born.insert(pid);
    }
    traits.extend(look.finish());
    processes.retain(|pid, _| listed.contains(pid));
    traits.retain(|pid, _| listed.contains(pid));
    born
}

/// These processes, with what rules look at; those that are gone are left out.
pub fn look(pids: impl Iterator<Item = i32>, needs: Needs) -> Vec<(Process, Traits)> {
    let mut look = Look::new(needs);
    let processes: Vec<Process> = pids.filter_map(read).collect();
    processes.iter().for_each(|process| look.begin(process.pid));
    let mut traits = look.finish();
    processes.into_iter().map(|p| (p, traits.remove(&p.pid).unwrap_or_default())).collect()
}

/// What rules look at, of some processes. What may hang is asked at the end, of all of them together.
struct Look {
    needs: Needs,
    traits: AllTraits,
    /// Processes by user whose program's path the kernel would have to ask a file system about.
    programs: Vec<(i32, u32, PathBuf)>,
    /// Processes by user.
    lines: Vec<(i32, u32)>,
}

impl Look {
    fn new(needs: Needs) -> Self {
        Self { needs, traits: AllTraits::new(), programs: Vec::new(), lines: Vec::new() }
    }

    fn begin(&mut self, pid: i32) {
        let dir = proc_dir(pid);
        let uid = std::fs::metadata(&dir).map_or(NOBODYS, |m| m.uid());
        let user = if self.needs.uid { user(&dir).unwrap_or(NOBODYS) } else { uid };
        let mut traits = Traits { uid: user, ..Traits::default() };
        if self.needs.exe {
            match program(&dir) {
                Program::Is(path) => traits.exe = path,
                Program::No => {}
                Program::Ask(path) => self.programs.push((pid, uid, path)),
            }
        }
        if self.needs.cmdline {
            self.lines.push((pid, uid));
        }
        self.traits.insert(pid, traits);
    }

    fn finish(mut self) -> AllTraits {
        let mounts = OnceCell::new();
        let key = |(_, uid, path): &(i32, u32, PathBuf)| mounts.get_or_init(Mounts::now).key(path, *uid);
        let answers = ask(&PROGRAMS, &self.programs, key, |(pid, _, path)| stands_there(&proc_dir(*pid), path));
        for ((pid, ..), answer) in self.programs.iter().zip(answers) {
            let Some(traits) = self.traits.get_mut(pid) else { continue };
            match answer {
                Ok(path) => traits.exe = path.unwrap_or_default(),
                Err(_) => traits.unknown.exe = true,
            }
        }
        // A process that keeps its own memory locked keeps whoever reads its arguments waiting.
        let key = |(pid, uid): &(i32, u32)| Key { what: pid.to_string(), owner: *uid };
        let answers = ask(&COMMAND_LINES, &self.lines, key, |(pid, _)| command_line(&proc_dir(*pid)));
        for ((pid, _), answer) in self.lines.iter().zip(answers) {
            let Some(traits) = self.traits.get_mut(pid) else { continue };
            match answer {
                Ok(line) => traits.cmdline = line,
                Err(_) => traits.unknown.cmdline = true,
            }
        }
        self.traits
    }
}

fn ask<I: Clone + Send + Sync + 'static, O: Send + 'static>(
    lane: &Lane,
    items: &[I],
    key: impl Fn(&I) -> Key,
    work: impl Fn(&I) -> O + Send + Sync + 'static,
) -> Vec<Result<O, Unknown>> {
    if items.is_empty() { Vec::new() } else { lane.each(items.to_vec(), key, work) }
}

/// Whose process it is by its real, effective and saved user: of a set-user-ID program, which still has the arguments
/// of whoever began it, nobody's.
pub(crate) fn user(dir: &Path) -> Option<u32> {
    let mut buffer = [0; LONGEST_STAT];
    let mut file = std::fs::File::open(dir.join("status")).ok()?;
    // The line stands within the first few hundred bytes.
    let length = file.read(&mut buffer).ok()?;
    let text = String::from_utf8_lossy(buffer.get(..length)?);
    let line = text.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let mut users = line.split_ascii_whitespace().take(3).map(str::parse::<u32>);
    let real = users.next()?.ok()?;
    Some(if users.all(|user| user == Ok(real)) { real } else { NOBODYS })
}

fn command_line(dir: &Path) -> String {
    let mut text = Vec::new();
    let opened = std::fs::File::open(dir.join("cmdline"));
    let _ = opened.and_then(|file| file.take(LONGEST_COMMAND).read_to_end(&mut text));
    let words = text.split(|b| *b == 0).filter(|w| !w.is_empty()).map(String::from_utf8_lossy);
    words.collect::<Vec<_>>().join(" ")
}

/// What can be said of a program without asking its file system.
enum Program {
    Is(String),
    No,
    /// A file system has to be asked what stands at this path.
    Ask(PathBuf),
}

/// The program's path as this host knows it. A process with mounts of its own may call any file anything: its path
/// counts only if it is the very file that stands there, or, when that was replaced, if the mounts are init's.
fn program(dir: &Path) -> Program {
    let link = dir.join("exe");
    let Ok(shown) = std::fs::read_link(&link) else { return Program::No };
    let text = shown.to_string_lossy();
    if let Some(path) = text.strip_suffix(" (deleted)") {
        let mounts = |proc: &Path| std::fs::read_link(proc.join("ns/mnt")).ok();
        let of_init = mounts(dir).is_some_and(|own| Some(own) == mounts(&proc_dir(1)));
        return if of_init { Program::Is(path.to_owned()) } else { Program::No };
    }
    match view::identity(CWD, &link) {
        Some(real) if view::remembered(&shown) == Some(real) => Program::Is(text.into_owned()),
        _ => Program::Ask(shown),
    }
}

/// The same, of a path that has to be looked up: here, and as init finds it.
fn stands_there(dir: &Path, shown: &Path) -> Option<String> {
    let real = std::fs::metadata(dir.join("exe")).ok()?;
    let is_it = view::metadata(shown).any(|named| (real.dev(), real.ino()) == (named.dev(), named.ino()));
    is_it.then(|| shown.to_string_lossy().into_owned())
}

/// One process, if it still runs (zombies do not: nothing of them can be moved).
pub fn read(pid: i32) -> Option<Process> {
    stat(CWD, format!("/proc/{pid}/stat"), &mut [0; LONGEST_STAT])
}

/// Three system calls: the kernel gives the whole line at once.
fn stat(above: BorrowedFd<'_>, path: String, buffer: &mut [u8]) -> Option<Process> {
    let file = openat(above, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let length = rustix::io::read(&file, &mut *buffer).ok()?;
    parse_stat(buffer.get(..length)?)
}

/// Is this thread on its way out? The kernel shows such a one at the root of every v1 hierarchy.
pub(crate) fn exiting(task: &std::path::Path) -> bool {
    let Ok(text) = file::text(&task.join("stat")) else { return true };
    let flags = text.rsplit(')').next().and_then(|rest| rest.split_ascii_whitespace().nth(6)?.parse::<u64>().ok());
    flags.is_none_or(|flags| flags & PF_EXITING != 0)
}

/// `/proc/PID/stat`; the name in parentheses may hold anything, so fields are counted from the last `)`.
pub fn parse_stat(text: &[u8]) -> Option<Process> {
    let close = text.iter().rposition(|b| *b == b')')?;
    let pid = std::str::from_utf8(text.get(..text.iter().position(|b| *b == b' ')?)?).ok()?.parse().ok()?;
    let mut fields = std::str::from_utf8(text.get(close + 2..)?).ok()?.split(' ');
    let state = fields.next()?;
    // Fields of proc_pid_stat(5) from the parent's pid on: the nth of those that are left.
    let mut number = |n: usize| fields.nth(n)?.parse::<u64>().ok();
    let (parent, flags, threads, start) = (number(0)?, number(4)?, number(10)?, number(1)?);
    // A leader that exited while other threads of it live on is no zombie yet.
    if matches!(state, "Z" | "X") && threads <= 1 {
        return None;
    }
    Some(Process {
        pid,
        parent: i32::try_from(parent).ok()?,
        kernel: flags & PF_KTHREAD != 0,
        threads: u32::try_from(threads).ok()?,
        start,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_any_name() {
        let line = b"42 (a) b) (c) S 7 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 3 0 98765 1 2 3";
        let process = parse_stat(line).unwrap();
        assert_eq!(
            (process.pid, process.parent, process.threads, process.start, process.kernel),
            (42, 7, 3, 98765, false)
        );
        for odd in
            [&b""[..], b"42", b"42 (x", b"42 (x)", b"x (x) S 1", b"42 (z) Z 7 42 42 0 -1 0 1 0 0 0 0 0 0 0 20 0 1 0 5"]
        {
            assert!(parse_stat(odd).is_none());
        }
    }

    #[test]
    fn this_process_is_in_the_scan() {
        let me = i32::try_from(std::process::id()).unwrap();
        let needs = Needs { uid: true, exe: true, cmdline: true };
        let (all, traits) = scan(needs);
        assert_eq!(traits[&me].uid, nix::unistd::geteuid().as_raw());
        assert!(traits[&me].exe.starts_with('/') && traits[&me].cmdline.contains("cgrove"));
        assert_eq!(all.get(&me).map(|p| p.start), read(me).map(|p| p.start));
        assert!(all[&me].threads >= 1);
    }

    #[test]
    fn the_next_scan_tells_who_was_born_and_forgets_who_ended() {
        let (mut all, mut traits) = scan(Needs::default());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let born = scan_again(Needs::default(), &mut all, &mut traits);
        assert!(born.contains(&pid) && all.contains_key(&pid));
        assert!(!scan_again(Needs::default(), &mut all, &mut traits).contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
        scan_again(Needs::default(), &mut all, &mut traits);
        assert!(!all.contains_key(&pid));
    }
}
