use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> (Self, StateDir) {
        let path = std::env::temp_dir().join(format!("cgrove-state-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        let state = StateDir::new(path.join("state"));
        (Self(path), state)
    }
}

#[test]
fn a_directory_in_the_place_of_another_is_told_from_one_that_may_not_be_written() {
    let (_place, state) = Place::new("replaced");
    let denied = || state.explained(StateError::io("make", &state.path().join("x"), Errno::ACCESS));
    assert!(matches!(denied(), StateError::Io { .. }), "never opened");
    state.prepare().unwrap();
    assert!(denied().to_string().contains("needs a directory that cgrove's user may write"));
    fs::remove_dir(state.path()).unwrap();
    assert!(matches!(denied(), StateError::Replaced { .. }));
    fs::create_dir(state.path()).unwrap();
    let why = denied();
    assert!(matches!(why, StateError::Replaced { .. }) && why.errno() == Some(Errno::ACCESS.raw_os_error()));
    assert!(why.to_string().contains("systemctl restart cgrove"));
    // Where it may be written all the same, it is the one from now on.
    state.put("x", b"1").unwrap();
    assert!(matches!(denied(), StateError::Io { .. }));
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn what_is_put_is_got_and_a_file_cut_anywhere_is_noticed() {
    let (_place, state) = Place::new("put");
    assert_eq!(state.get("x").unwrap(), None);
    state.put("x", b"some\nthing").unwrap();
    assert_eq!(state.get("x").unwrap().unwrap(), b"some\nthing");
    assert_eq!(fs::metadata(state.path()).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(state.path().join("x")).unwrap().permissions().mode() & 0o777, 0o600);
    let whole = fs::read(state.path().join("x")).unwrap();
    for end in 0..whole.len() {
        fs::write(state.path().join("x"), &whole[..end]).unwrap();
        assert!(matches!(state.get("x"), Err(StateError::Damaged { .. })), "cut at {end}");
    }
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fs::write(state.path().join("x"), &changed).unwrap();
        assert!(state.get("x").is_err(), "changed at {at}");
    }
    state.put("x", b"").unwrap();
    assert_eq!(state.get("x").unwrap().unwrap(), b"");
    state.remove("x").unwrap();
    state.remove("x").unwrap();
    assert_eq!(state.get("x").unwrap(), None);
    assert!(state.names().unwrap().is_empty());
}

#[test]
fn an_unchanged_value_is_not_written_again() {
    let (_place, state) = Place::new("same");
    let inode = |state: &StateDir| std::os::unix::fs::MetadataExt::ino(&fs::metadata(state.path().join("x")).unwrap());
    state.put("x", b"1").unwrap();
    let before = inode(&state);
    state.put("x", b"1").unwrap();
    StateDir::new(state.path()).put("x", b"1").unwrap();
    assert_eq!(inode(&state), before);
    state.put("x", b"2").unwrap();
    assert_ne!(inode(&state), before);
}

#[test]
fn only_a_plain_file_of_ours_is_read() {
    let (_place, state) = Place::new("kinds");
    state.put("good", b"1").unwrap();
    let at = |name: &str| state.path().join(name);
    let refused = |name: &str| matches!(state.get(name), Err(StateError::Unsafe { .. }));
    symlink(at("good"), at("link")).unwrap();
    assert!(refused("link"));
    fs::hard_link(at("good"), at("twin")).unwrap();
    assert!(refused("twin") && refused("good"));
    fs::remove_file(at("twin")).unwrap();
    assert!(!refused("good"));
    fs::set_permissions(at("good"), fs::Permissions::from_mode(0o622)).unwrap();
    assert!(refused("good"));
    fs::create_dir(at("directory")).unwrap();
    assert!(refused("directory"));
    rustix::fs::mknodat(CWD, at("fifo"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert!(refused("fifo"));
    File::create(at("endless")).unwrap().set_len(check::MOST_BYTES + 1).unwrap();
    assert!(refused("endless"));
    for name in ["", ".", "..", "../x", "a/b"] {
        assert!(state.get(name).is_err() && state.put(name, b"").is_err() && state.remove(name).is_err(), "{name}");
    }
    // What stands in the way of a new file is replaced, not followed.
    state.put("link", b"2").unwrap();
    assert_eq!(state.get("link").unwrap().unwrap(), b"2");
}

#[test]
fn a_directory_that_others_may_write_or_replace_is_refused() {
    let (place, state) = Place::new("who");
    state.prepare().unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for bad in [0o770, 0o707, 0o722, 0o1777] {
        mode(state.path(), bad);
        assert!(state.prepare().is_err() && state.get("x").is_err() && state.put("x", b"").is_err(), "{bad:o}");
    }
    mode(state.path(), 0o755);
    state.prepare().unwrap();
    mode(&place.0, 0o777);
    assert!(state.prepare().unwrap_err().to_string().contains("replace"));
    mode(&place.0, 0o1777);
    state.prepare().unwrap();
    let link = place.0.join("link");
    symlink(state.path(), &link).unwrap();
    assert!(StateDir::new(&link).prepare().unwrap_err().to_string().contains("symbolic link"));
    assert!(StateDir::new(place.0.join("link/")).prepare().unwrap_err().to_string().contains("symbolic link"));
    fs::write(place.0.join("file"), "").unwrap();
    assert!(StateDir::new(place.0.join("file")).prepare().unwrap_err().to_string().contains("no directory"));
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(state.path(), Some(65534), None).unwrap();
        assert!(state.prepare().unwrap_err().to_string().contains("belongs to user 65534"));
    }
}

#[test]
fn one_holds_the_lock_and_clears_what_was_left_unfinished() {
    let (_place, state) = Place::new("lock");
    state.prepare().unwrap();
    fs::write(state.path().join("x.1-2.new"), "half").unwrap();
    let lock = state.lock().unwrap();
    assert_eq!(state.names().unwrap(), ["lock"]);
    let me = i32::try_from(std::process::id()).unwrap();
    assert!(matches!(state.lock(), Err(StateError::Taken { pid: Some(pid), .. }) if pid == me));
    drop(lock);
    state.lock().unwrap();
}

#[test]
fn a_plain_file_of_an_earlier_version_is_taken_if_it_is_one() {
    let (_place, state) = Place::new("plain");
    state.prepare().unwrap();
    fs::write(state.path().join("x"), "0123").unwrap();
    assert!(state.get("x").is_err());
    let digits = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_digit);
    assert_eq!(state.get_or_plain("x", digits).unwrap().unwrap(), b"0123");
    state.put("x", b"45").unwrap();
    assert_eq!(state.get_or_plain("x", digits).unwrap().unwrap(), b"45");
}
