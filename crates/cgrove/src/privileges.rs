//! What root could do and the daemon need not is given up before anything starts: capabilities, new privileges by
//! running other programs, and core dumps, which would hold secrets. The service's unit takes more away.

use nix::unistd::{Group, Uid, getegid, getgroups};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

use crate::serve::SOCKET_GROUP;
use cgrove_config::{Address, Config};

/// Each with the reason for which it is kept.
fn needed(config: &Config) -> CapabilitySet {
    // The roots of the hierarchies have mode 0555, pid files and credentials may belong to anybody.
    let mut set = CapabilitySet::DAC_OVERRIDE;
    // Realtime processes, and processes into cpusets.
    set |= CapabilitySet::SYS_NICE;
    // Where other users' programs come from: /proc/PID/exe.
    set |= CapabilitySet::SYS_PTRACE;
    if config.tasks.proc_events {
        set |= CapabilitySet::NET_ADMIN;
    }
    let listen = &config.server.listen;
    if listen.iter().any(|a| matches!(a, Address::Tcp(a) if (1..1024).contains(&a.port()))) {
        set |= CapabilitySet::NET_BIND_SERVICE;
    }
    // A socket may be given to a group that we are a member of without it.
    let member = |g: Group| getegid() == g.gid || getgroups().is_ok_and(|own| own.contains(&g.gid));
    let group = Group::from_name(SOCKET_GROUP).ok().flatten();
    if listen.iter().any(|a| matches!(a, Address::Unix(_))) && group.is_some_and(|g| !member(g)) {
        set |= CapabilitySet::CHOWN;
    }
    set | config.keep_capabilities
}

/// What a reload would need that the start gave up.
pub(crate) fn gained(old: &Config, new: &Config) -> Result<(), String> {
    let have = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    // Without it a socket is root's alone, and that is said.
    let missing = needed(new) - needed(old) - have - CapabilitySet::CHOWN;
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
    Err(format!("it needs {}, which was given up at the start: restart the daemon for that", names.join(" ")))
}

/// Gives up what is not needed, in this thread and all that it will start. A reload that needs more than the start
/// did needs a restart.
pub(crate) fn drop_all_but_needed(config: &Config) {
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = set_no_new_privs(true);
    if !Uid::effective().is_root() {
        return;
    }
    let needed = needed(config);
    for capability in CapabilitySet::all().difference(needed).iter() {
        let _ = remove_capability_from_bounding_set(capability);
    }
    if let Ok(now) = capabilities(None) {
        let kept = needed & now.permitted;
        let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
        // Under the unit nothing else is left, and its system call filter forbids to say so.
        if now != sets
            && let Err(e) = set_capabilities(None, sets)
        {
            tracing::warn!("capabilities cannot be given up: {e}");
        }
    }
}

/// The capabilities that are left, for the status.
pub(crate) fn left() -> Vec<String> {
    let effective = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    effective.iter_names().map(|(name, _)| format!("CAP_{name}")).collect()
}
