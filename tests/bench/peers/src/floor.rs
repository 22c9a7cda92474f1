//! The least that the work can cost: bare system calls, nothing kept, nothing decided.

use std::fs::{self, File};
use std::io::{Read, Result, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, Mode, OFlags, openat};

use crate::clock;

/// Reads files that stay open, one pread each, once a second; those beyond what may stay open are opened each time.
pub(crate) fn reads(paths: &[PathBuf], passes: u32) -> Result<Vec<i64>> {
    let (open, others) = paths.split_at(paths.len().min(cgrove_cgroupfs::sample::descriptor_budget()));
    let files = open.iter().map(File::open).collect::<Result<Vec<_>>>()?;
    let mut buffer = vec![0; 4096];
    clock::each_second(passes, || {
        files.iter().try_for_each(|f| f.read_at(&mut buffer, 0).map(drop))?;
        others.iter().try_for_each(|path| File::open(path)?.read_at(&mut buffer, 0).map(drop))
    })
}

/// Makes directories; a line `DIRECTORY FILE VALUE` has a file of it written.
pub(crate) fn create(lines: &[String]) -> Result<i64> {
    clock::spent(|| {
        lines.iter().try_for_each(|line| {
            let mut words = line.splitn(3, ' ');
            let group = Path::new(words.next().unwrap_or_default());
            fs::create_dir(group)?;
            let (Some(file), Some(value)) = (words.next(), words.next()) else { return Ok(()) };
            File::options().write(true).open(group.join(file))?.write_all(value.as_bytes())
        })
    })
}

/// Is it there, and what does its file say? Lines `DIRECTORY [FILE]`.
pub(crate) fn look(lines: &[String]) -> Result<i64> {
    let mut buffer = [0; 4096];
    clock::spent(|| {
        lines.iter().try_for_each(|line| {
            let (group, file) = line.split_once(' ').unwrap_or((line, ""));
            fs::metadata(group)?;
            if file.is_empty() {
                return Ok(());
            }
            File::open(Path::new(group).join(file))?.read(&mut buffer).map(drop)
        })
    })
}

pub(crate) fn remove(groups: &[PathBuf]) -> Result<i64> {
    clock::spent(|| groups.iter().rev().try_for_each(fs::remove_dir))
}

/// Reads /proc/PID/stat of every process, once a second; ones that end meanwhile are no error.
pub(crate) fn processes(passes: u32) -> Result<Vec<i64>> {
    let mut buffer = [0; 2048];
    clock::each_second(passes, || {
        let proc = File::open("/proc")?;
        for entry in Dir::read_from(&proc)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.as_bytes()[0].is_ascii_digit()
                && let Ok(stat) = openat(&proc, format!("{name}/stat"), OFlags::RDONLY, Mode::empty())
            {
                let _ = rustix::io::read(&stat, &mut buffer);
            }
        }
        Ok(())
    })
}

/// Moves processes, one write each: lines `FILE PID`, where the file is a cgroup.procs.
pub(crate) fn moves(lines: &[String]) -> Result<i64> {
    let mut file: Option<(&str, File)> = None;
    clock::spent(|| {
        for line in lines {
            let (path, pid) = line.split_once(' ').unwrap_or((line, ""));
            if file.as_ref().is_none_or(|(open, _)| *open != path) {
                file = Some((path, File::options().write(true).open(path)?));
            }
            if let Some((_, file)) = &mut file {
                file.write_all(pid.as_bytes())?;
            }
        }
        Ok(())
    })
}
