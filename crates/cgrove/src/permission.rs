//! May we write cgroups at all?

use std::path::Path;

use cgrove_cgroupfs::host::{Host, Mount};
use cgrove_cgroupfs::paths::Tree;
use cgrove_core::ids::GroupPath;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

use crate::exit::Exit;
use cgrove_config::Config;

/// Is there a hierarchy, and may we write it? Says why not and what to do.
pub(crate) fn check(config: &Config) -> Result<(), Exit> {
    let host = Host::discover(&config.cgroup.dir)?;
    let dir = config.cgroup.dir.display();
    if host.mounts.is_empty() {
        return Err(Exit::unavailable(format!("no cgroup file system is mounted below {dir} (see cgroup.dir)")));
    }
    let refusal = |mount: &&Mount| {
        let parent = Tree::new(mount, config.parents()).dir(&GroupPath::root());
        let existing = parent.ancestors().find(|d| d.is_dir()).map(Path::to_owned).unwrap_or_else(|| mount.dir.clone());
        access(&existing, AccessFlags::W_OK).err().map(|errno| (existing, errno))
    };
    let refusals: Vec<_> = host.mounts.iter().filter_map(|m| refusal(&m)).collect();
    if refusals.len() < host.mounts.len() {
        return Ok(());
    }
    let (path, errno) = &refusals[0];
    let mend = match errno {
        Errno::EROFS => {
            "it is mounted read-only; in a container, mount the host's /sys/fs/cgroup writable (docker-compose.yml shows how)"
        }
        _ if !nix::unistd::geteuid().is_root() => "cgroups belong to root; run cgrove as root, for instance with sudo",
        _ => "give cgrove write access to it",
    };
    Err(Exit::permission(format!("cannot write cgroups: {}: {}; {mend}", path.display(), errno.desc())))
}
