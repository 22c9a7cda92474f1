//! The kernel behind the same interface: groups below one of our own, processes of our own.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use cgrove_cgroupfs::host::Mount;
use cgrove_core::actual::Version;
use cgrove_core::ids::GroupPath;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::model::{Ground, tracked};
use crate::{Cgroups, Errno, Process};

/// One hierarchy: `HOLDER/top` is what the model has, `HOLDER/outside` is where processes wait.
pub struct Real {
    version: Version,
    holder: PathBuf,
    files: Vec<&'static str>,
    processes: Vec<Option<Runner>>,
}

/// A process of ours; those begun by others cannot begin more.
struct Runner {
    pid: i32,
    own: Option<(Child, ChildStdin, BufReader<ChildStdout>)>,
}

/// Late, but it comes: what the kernel does after the call has returned.
pub(crate) const SOON: Duration = Duration::from_secs(2);

impl Real {
    /// Makes `/NAME` with `top` and `outside` below it, and that many processes outside.
    pub fn set(mount: &Mount, name: &str, processes: usize) -> Result<(Self, Ground), String> {
        let known = ["cpu", "cpuset", "memory", "pids", "freezer"];
        let names = mount.controllers.iter().map(|c| if mount.version == Version::V1 { c.v1_name() } else { c.name() });
        let names: BTreeSet<&str> = names.collect();
        let controllers: Vec<&'static str> = known.into_iter().filter(|k| names.contains(k)).collect();
        let controllers: Vec<_> =
            controllers.into_iter().filter(|c| mount.version == Version::V1 || *c != "freezer").collect();
        let holder = mount.dir.join(name);
        // From here on whatever was made goes again, also when the rest cannot be made.
        let mut real =
            Self { version: mount.version, holder: holder.clone(), files: Vec::new(), processes: Vec::new() };
        make(mount, &holder, &controllers)?;
        let top = holder.join("top");
        let set = |files: [&str; 2]| {
            let text = files.iter().find_map(|f| std::fs::read_to_string(top.join(f)).ok()).unwrap_or_default();
            let list: cgrove_core::knobs::IdSet = text.parse().unwrap_or_default();
            (0..64)
                .filter(|n: &u32| n.to_string().parse().is_ok_and(|one| list.is_superset(&one)))
                .map(|n| 1 << n)
                .sum()
        };
        let mut ground = Ground {
            version: mount.version,
            controllers,
            at_root: false,
            cpus: set(["cpuset.cpus.effective", "cpuset.cpus"]),
            mems: set(["cpuset.mems.effective", "cpuset.mems"]),
            cpu_ids: cpu_ids(),
            page: 4096,
            idle_weight: idle_weight(&holder.join("outside")),
            lacks: BTreeSet::new(),
        };
        let files = tracked(&ground);
        ground.lacks = files.iter().copied().filter(|f| !top.join(f).exists()).collect();
        real.files = files.into_iter().filter(|f| !ground.lacks.contains(f)).collect();
        for _ in 0..processes {
            let runner = begin().map_err(|e| format!("a process: {e}"))?;
            real.processes.push(Some(runner));
            real.leave(real.processes.len() - 1);
        }
        Ok((real, ground))
    }

    fn dir(&self, group: &GroupPath) -> PathBuf {
        let mut dir = self.holder.join("top");
        dir.extend(group.components());
        dir
    }

    fn members(&self, dir: &Path) -> Vec<Process> {
        let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        let pids: BTreeSet<i32> = text.lines().filter_map(|l| l.parse().ok()).collect();
        let ours = self.processes.iter().enumerate();
        ours.filter(|(_, p)| p.as_ref().is_some_and(|p| pids.contains(&p.pid))).map(|(i, _)| i).collect()
    }

    fn walk(&self, path: &GroupPath, out: &mut Vec<(GroupPath, Vec<Process>)>) {
        let dir = self.dir(path);
        out.push((path.clone(), self.members(&dir)));
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let names = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.file_name());
        let mut below: Vec<_> = names.filter_map(|n| path.child(n.to_str()?)).collect();
        below.sort();
        below.iter().for_each(|p| self.walk(p, out));
    }

    fn place(&mut self, process: Process, dir: &Path) -> Result<(), Errno> {
        let pid = self.processes[process].as_ref().ok_or(Errno::ESRCH)?.pid;
        put(&dir.join("cgroup.procs"), &pid.to_string())
    }
}

impl Cgroups for Real {
    fn mkdir(&mut self, group: &GroupPath) -> Result<(), Errno> {
        std::fs::create_dir(self.dir(group)).map_err(errno)
    }

    fn rmdir(&mut self, group: &GroupPath) -> Result<(), Errno> {
        std::fs::remove_dir(self.dir(group)).map_err(errno)
    }

    fn write(&mut self, group: &GroupPath, file: &str, value: &str) -> Result<(), Errno> {
        put(&self.dir(group).join(file), value)
    }

    fn read(&self, group: &GroupPath, file: &str) -> Result<String, Errno> {
        let path = self.dir(group).join(file);
        let until = Instant::now() + SOON;
        loop {
            let text = std::fs::read_to_string(&path).map_err(errno)?;
            let text = text.trim();
            return Ok(match file {
                "freezer.state" if text == "FREEZING" && Instant::now() < until => {
                    pause();
                    continue;
                }
                "cgroup.events" => text.lines().find(|l| l.starts_with("populated")).unwrap_or_default().into(),
                "memory.oom_control" => text.lines().next().unwrap_or_default().replace("oom_kill_disable ", ""),
                "cgroup.controllers" | "cgroup.subtree_control" => {
                    let names: BTreeSet<&str> = text.split_whitespace().collect();
                    names.into_iter().collect::<Vec<_>>().join(" ")
                }
                _ => text.into(),
            });
        }
    }

    fn attach(&mut self, process: Process, group: &GroupPath) -> Result<(), Errno> {
        self.place(process, &self.dir(group))
    }

    fn leave(&mut self, process: Process) {
        self.place(process, &self.holder.join("outside")).expect("outside takes everybody");
    }

    fn fork(&mut self, process: Process) -> Result<Process, Errno> {
        let runner = self.processes[process].as_mut().ok_or(Errno::ESRCH)?;
        let (_, ask, answer) = runner.own.as_mut().ok_or(Errno::EPERM)?;
        writeln!(ask, "fork").map_err(errno)?;
        let mut line = String::new();
        answer.read_line(&mut line).map_err(errno)?;
        match line.trim().split_once(' ').map(|(what, n)| (what, n.parse::<i32>().unwrap_or(0))) {
            Some(("pid", pid)) => {
                self.processes.push(Some(Runner { pid, own: None }));
                Ok(self.processes.len() - 1)
            }
            Some((_, number)) => Err(Errno::from_raw(number)),
            None => Err(Errno::EIO),
        }
    }

    fn kill(&mut self, process: Process) {
        let Some(runner) = self.processes[process].take() else { return };
        let _ = kill(Pid::from_raw(runner.pid), Signal::SIGKILL);
        let until = Instant::now() + SOON;
        // It is gone when no group shows it any more; nobody waits for it but the one that began it.
        while Path::new("/proc").join(runner.pid.to_string()).exists() && Instant::now() < until {
            pause();
        }
    }

    fn groups(&self) -> Vec<(GroupPath, Vec<Process>)> {
        let mut out = Vec::new();
        self.walk(&GroupPath::root(), &mut out);
        out.sort();
        out
    }

    fn files(&self, group: &GroupPath) -> Vec<&'static str> {
        let dir = self.dir(group);
        self.files.iter().copied().filter(|f| dir.join(f).exists()).collect()
    }
}

/// What was made goes, whatever happened.
impl Drop for Real {
    fn drop(&mut self) {
        let mut groups = Vec::new();
        self.walk(&GroupPath::root(), &mut groups);
        for (group, _) in &groups {
            let dir = self.dir(group);
            let (file, value) =
                if self.version == Version::V1 { ("freezer.state", "THAWED") } else { ("cgroup.freeze", "0") };
            let _ = put(&dir.join(file), value);
        }
        for runner in self.processes.iter_mut().flatten() {
            let _ = kill(Pid::from_raw(runner.pid), Signal::SIGKILL);
            if let Some((child, ..)) = &mut runner.own {
                let _ = child.wait();
            }
        }
        let dirs = groups.iter().rev().map(|(group, _)| self.dir(group));
        let dirs = dirs.chain([self.holder.join("outside"), self.holder.clone()]);
        for dir in dirs {
            let until = Instant::now() + SOON;
            while std::fs::remove_dir(&dir).is_err() && dir.exists() && Instant::now() < until {
                pause();
            }
        }
    }
}

/// The directories, with every controller that the model knows.
fn make(mount: &Mount, holder: &Path, controllers: &[&str]) -> Result<(), String> {
    let said = |what: &Path, e: std::io::Error| format!("{}: {e}", what.display());
    for dir in [holder.to_owned(), holder.join("top"), holder.join("outside")] {
        std::fs::create_dir(&dir).map_err(|e| said(&dir, e))?;
        if mount.version == Version::V1 && controllers.contains(&"cpuset") {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let above = dir.parent().map(|up| up.join(file)).unwrap_or_default();
                let value = std::fs::read_to_string(&above).map_err(|e| said(&above, e))?;
                put(&dir.join(file), value.trim()).map_err(|e| format!("{}: {e}", dir.display()))?;
            }
        }
        if mount.version == Version::V2 && dir == holder {
            for place in [&mount.dir, holder].map(|d| d.join("cgroup.subtree_control")) {
                for c in controllers {
                    put(&place, &format!("+{c}")).map_err(|e| format!("+{c} to {}: {e}", place.display()))?;
                }
            }
        }
    }
    Ok(())
}

/// nr_cpu_ids: one more than the last possible CPU.
fn cpu_ids() -> u32 {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    text.trim().rsplit(['-', ',']).next().and_then(|n| n.parse::<u32>().ok()).map_or(1, |n| n + 1)
}

/// What this kernel says of an idle group.
fn idle_weight(spare: &Path) -> u64 {
    let _ = put(&spare.join("cpu.idle"), "1");
    let weight = std::fs::read_to_string(spare.join("cpu.weight")).ok().and_then(|w| w.trim().parse().ok());
    let _ = put(&spare.join("cpu.idle"), "0");
    weight.unwrap_or(0)
}

fn errno(e: std::io::Error) -> Errno {
    Errno::from_raw(e.raw_os_error().unwrap_or(0))
}

/// One write(2). Nothing is written as an empty line.
fn put(path: &Path, value: &str) -> Result<(), Errno> {
    let mut file =
        std::fs::OpenOptions::new().write(true).custom_flags(nix::libc::O_NOFOLLOW).open(path).map_err(errno)?;
    file.write_all(if value.is_empty() { b"\n" } else { value.as_bytes() }).map_err(errno)
}

#[allow(clippy::disallowed_methods, reason = "bounded by SOON")]
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(1));
}

fn begin() -> std::io::Result<Runner> {
    let mut child =
        Command::new(std::env::current_exe()?).arg("member").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (Some(ask), Some(answer)) = (child.stdin.take(), child.stdout.take()) else { unreachable!("both are piped") };
    Ok(Runner { pid: i32::try_from(child.id()).unwrap_or(0), own: Some((child, ask, BufReader::new(answer))) })
}

/// What such a process does: it begins another when it is told to, and ends with us.
#[allow(clippy::zombie_processes, reason = "the kernel reaps them, as SIGCHLD is ignored")]
pub fn member() {
    use nix::sys::signal::{SigHandler, signal};
    // SAFETY: no handler of ours runs.
    #[allow(unsafe_code, reason = "the only way to have children reaped by the kernel")]
    let _ = unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) };
    let mut begun: BTreeMap<u32, Child> = BTreeMap::new();
    for _ in std::io::stdin().lock().lines().map_while(Result::ok) {
        let mut sleep = Command::new("sleep");
        let answer = match sleep.arg("900").stdin(Stdio::null()).stdout(Stdio::null()).spawn() {
            Ok(child) => {
                let pid = child.id();
                begun.insert(pid, child);
                format!("pid {pid}\n")
            }
            Err(e) => format!("errno {}\n", e.raw_os_error().unwrap_or(0)),
        };
        #[allow(clippy::disallowed_methods, reason = "a program reads it")]
        let mut out = std::io::stdout();
        if out.write_all(answer.as_bytes()).and_then(|()| out.flush()).is_err() {
            break;
        }
    }
    begun.values_mut().for_each(|child| drop(child.kill()));
}
