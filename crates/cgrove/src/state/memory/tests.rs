use std::fs;
use std::path::PathBuf;

use cgrove_core::ids::GroupPath;

use super::*;

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> (Self, Keeper) {
        let path = std::env::temp_dir().join(format!("cgrove-memory-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        let keeper = Keeper::open(&path).unwrap();
        (Self(path), keeper)
    }

    /// A directory where the file belongs: nothing can be renamed there.
    fn block(&self, file: &str) -> PathBuf {
        let path = self.0.join(file);
        fs::create_dir(&path).unwrap();
        path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const X: &str = "0123456789abcdef";
const Y: &str = "fedcba9876543210";

fn parents(path: &str) -> Parents {
    let path = GroupPath::parse(path).unwrap();
    Parents { v1: path.clone(), v2: path }
}

fn removals(groups: &[&str]) -> BTreeSet<Removal> {
    groups.iter().map(|g| ("cpu".to_owned(), GroupPath::parse(g).unwrap())).collect()
}

fn guard(approved: bool) -> Guard {
    Guard { digest: X.into(), why: "many".into(), groups: 2, approved }
}

fn settled(keeper: &Keeper) -> bool {
    let settled = keeper.settle(Duration::from_secs(20));
    settled.error.is_none() && settled.pending.is_empty()
}

#[test]
fn what_is_held_is_held_by_memory_and_by_the_next_process() {
    let (_place, keeper) = Place::new("held");
    let mut memory = Memory::new(keeper.clone(), parents("/a"));
    memory.remember(Some(&guard(false)), removals(&["/x", "/y"]), &Approval::default());
    assert_eq!(memory.approval(None).held, removals(&["/x", "/y"]));
    assert!(settled(&keeper));
    assert_eq!(Memory::new(keeper.clone(), parents("/a")).approval(None).held, removals(&["/x", "/y"]));
    assert!(Memory::new(keeper.clone(), parents("/b")).approval(None).held.is_empty());
    memory.remember(None, removals(&[]), &Approval::default());
    assert!(settled(&keeper) && memory.holds().is_none());
    assert!(Memory::new(keeper, parents("/a")).approval(None).held.is_empty());
}

#[test]
fn a_permission_counts_once_and_not_before_that_is_on_the_disk() {
    let (place, keeper) = Place::new("permission");
    let mut memory = Memory::new(keeper.clone(), parents("/a"));
    let begun = place.block(&memory.names.begun.clone());
    // What is in the file's place is no file: nobody knows whose permission has counted.
    let mut unsure = Memory::new(keeper.clone(), parents("/a"));
    assert!(memory.is_first(X) && !unsure.is_first(X));
    memory.begin(X);
    memory.remember(Some(&guard(true)), removals(&["/x"]), &Approval::default());
    assert!(!memory.is_first(X) && memory.is_first(Y));
    assert!(memory.holds().unwrap().starts_with("state:"));
    fs::remove_dir(begun).unwrap();
    let free = (0..50).any(|_| {
        memory.holds().is_none() || {
            std::thread::park_timeout(Duration::from_millis(200));
            false
        }
    });
    assert!(free && settled(&keeper));
    // What it named goes on until it is done, also after the permission was used.
    assert_eq!(memory.approval(None).removals, removals(&["/x"]));
    assert!(!Memory::new(keeper.clone(), parents("/a")).is_first(X));
    unsure.begin(Y);
    assert!(unsure.is_first(X) && settled(&keeper));
    assert!(!Memory::new(keeper, parents("/a")).is_first(Y));
}

#[test]
fn an_approval_is_used_before_it_counts() {
    let (_place, keeper) = Place::new("approval");
    let mut memory = Memory::new(keeper.clone(), parents("/a"));
    crate::state::approve(keeper.dir(), X).unwrap();
    let given = memory.approval(None);
    assert!(given.digests.contains(X));
    memory.remember(Some(&guard(true)), removals(&["/x"]), &given);
    assert!(memory.needed.contains(&Key::Approval(X.into())));
    assert!(memory.holds().is_none() && memory.needed.is_empty());
    assert!(keeper.approvals().is_empty());
}

#[test]
fn an_approval_counts_only_for_the_hold_that_it_was_given_for() {
    let (_place, keeper) = Place::new("others");
    let mut memory = Memory::new(keeper.clone(), parents("/a"));
    let approve = |digest| crate::state::approve(keeper.dir(), digest).unwrap();
    let both = BTreeSet::from([X.to_owned(), Y.to_owned()]);
    approve(X);
    approve(Y);
    // Given while nobody ran: the source may wait for one of them.
    memory.remember(Some(&guard(false)), removals(&["/x"]), &Approval::default());
    assert_eq!(keeper.approvals(), both);
    keeper.document_waits(Some(Y));
    assert_eq!(keeper.approvals(), both);
    keeper.document_waits(None);
    assert_eq!(keeper.approvals(), BTreeSet::from([X.to_owned()]));
    // What was held is not asked for any more, and later is again.
    memory.remember(None, BTreeSet::new(), &Approval::default());
    assert!(settled(&keeper) && keeper.approvals().is_empty());
    assert!(!keeper.dir().inside("approved").has(X).unwrap());
    memory.remember(Some(&guard(false)), removals(&["/x"]), &Approval::default());
    assert!(memory.approval(None).digests.is_empty());
}

#[test]
fn while_nothing_can_be_read_everything_is_held_and_nothing_is_forgotten() {
    let (place, _) = Place::new("unread");
    // No file system has names of this length, so it cannot be opened, whoever asks.
    let keeper = Keeper::open(&place.0.join("x".repeat(300))).unwrap();
    let mut memory = Memory::new(keeper, parents("/a"));
    assert!(memory.holds().is_some() && !memory.is_first(X));
    memory.remember(Some(&guard(false)), removals(&["/x"]), &Approval::default());
    memory.read();
    assert_eq!(memory.approval(None).held, removals(&["/x"]));
    assert!(memory.holds().is_some());
}

#[test]
fn what_is_lost_holds_until_an_operator_decides() {
    let (place, keeper) = Place::new("lost");
    let name = Names::of(&parents("/a")).held;
    fs::write(place.0.join(&name), "half of it").unwrap();
    let mut memory = Memory::new(keeper.clone(), parents("/a"));
    assert!(memory.held_lost());
    memory.remember(Some(&guard(false)), removals(&["/x"]), &Approval::default());
    assert!(!memory.held_lost() && settled(&keeper));
    assert_eq!(Memory::new(keeper, parents("/a")).approval(None).held, removals(&["/x"]));
}

#[test]
fn another_directory_gets_what_is_known() {
    let (_old, keeper) = Place::new("from");
    let (_new, other) = Place::new("to");
    let mut memory = Memory::new(keeper, parents("/a"));
    memory.begin(X);
    memory.remember(Some(&guard(false)), removals(&["/x"]), &Approval::default());
    let memory = memory.moved(other.clone(), parents("/a"));
    assert!(settled(&other) && !memory.is_first(X));
    let later = Memory::new(other, parents("/a"));
    assert!(!later.is_first(X));
    assert_eq!(later.approval(None).held, removals(&["/x"]));
}
