use std::fs;
use std::path::PathBuf;

use super::*;

const LONG: Duration = Duration::from_secs(20);

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("cgrove-keeper-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn file(name: &str) -> Key {
    Key::File(name.into())
}

#[test]
fn the_newest_value_is_written_and_the_directory_has_one_owner() {
    let place = Place::new("newest");
    let keeper = Keeper::open(&place.0).unwrap();
    for i in 0..100 {
        keeper.change(file("x"), Change::Put(vec![i]));
    }
    let settled = keeper.settle(LONG);
    assert!(settled.error.is_none() && settled.pending.is_empty());
    assert_eq!(keeper.dir().get("x").unwrap().unwrap(), [99]);
    assert!(matches!(Keeper::open(&place.0), Err(StateError::Taken { .. })));
    assert!(keeper.watch().borrow().is_clean());
}

#[test]
fn what_the_disk_refuses_is_said_and_written_later() {
    let place = Place::new("refused");
    let keeper = Keeper::open(&place.0).unwrap();
    // A directory in the file's place: rename fails, whoever asks.
    fs::create_dir(place.0.join("x")).unwrap();
    keeper.change(file("x"), Change::Put(b"1".to_vec()));
    let settled = keeper.settle(LONG);
    assert!(settled.error.is_some() && settled.pending.contains(&file("x")));
    assert!(!keeper.watch().borrow().is_clean());
    fs::remove_dir(place.0.join("x")).unwrap();
    let mut report = keeper.watch();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LONG, report.wait_for(Report::is_clean)).await }).unwrap().unwrap();
    assert_eq!(keeper.dir().get("x").unwrap().unwrap(), b"1");
}

#[test]
fn an_approval_counts_once_even_if_its_file_stays() {
    let place = Place::new("once");
    let keeper = Keeper::open(&place.0).unwrap();
    let digest = "0123456789abcdef";
    let one = BTreeSet::from([digest.to_owned()]);
    crate::state::approve(keeper.dir(), digest).unwrap();
    fs::write(place.0.join("approved/README"), "").unwrap();
    std::os::unix::fs::symlink("README", place.0.join("approved/fedcba9876543210")).unwrap();
    assert_eq!(keeper.approvals(), one);
    assert!(keeper.watch().borrow().approvals.as_ref().unwrap().contains("symbolic link"));
    keeper.spend(digest);
    assert!(keeper.approvals().is_empty());
    assert!(keeper.settle(LONG).error.is_none());
    assert!(keeper.approvals().is_empty());
    crate::state::approve(keeper.dir(), digest).unwrap();
    assert_eq!(keeper.approvals(), one);
    // Not removable.
    fs::remove_file(place.0.join("approved").join(digest)).unwrap();
    fs::create_dir(place.0.join("approved").join(digest)).unwrap();
    keeper.spend(digest);
    assert!(keeper.settle(LONG).error.is_some());
    assert!(keeper.approvals().is_empty());
}

#[test]
fn a_directory_that_was_cleared_away_is_taken_anew() {
    let place = Place::new("cleared");
    let keeper = Keeper::open(&place.0).unwrap();
    fs::remove_dir_all(&place.0).unwrap();
    keeper.change(file("x"), Change::Put(b"1".to_vec()));
    assert!(keeper.settle(LONG).error.is_none());
    assert!(matches!(Keeper::open(&place.0), Err(StateError::Taken { .. })));
}
