//! Random histories on the model: documents change, others meddle, processes fork, the daemon dies half-way, the kernel
//! refuses; then it is left in peace, and has to come to rest: the tree as declared, the next plan empty, what is
//! others' untouched. Five thousand for each version; CGROVE_SEED=N replays one, CGROVE_SCHEDULES=N runs more or fewer.

use super::model::{Kernel, Node};
use super::*;

/// xorshift: the same history for the same seed, everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.roll(of.len() as u64) as usize]
    }
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// A document of a few groups and knobs.
fn document(dice: &mut Dice, depth: u32) -> String {
    let mut groups = Vec::new();
    for name in NAMES {
        if dice.roll(3) == 0 {
            continue;
        }
        let mut knobs = Vec::new();
        for _ in 0..dice.roll(4) {
            let (name, value) = match dice.roll(6) {
                0 => ("cpu.shares", dice.pick(&["2", "100", "1024", "5000"])),
                1 => ("cpu.max", dice.pick(&["\"50%\"", "\"75%\"", "\"max\"", "\"30000 100000\"", "\"5000 20000\""])),
                2 => ("cpuset.cpus", dice.pick(&["\"0\"", "\"0-1\"", "\"1-3\"", "\"0-3\"", "\"2\""])),
                3 => ("memory.max", dice.pick(&["\"64M\"", "\"max\"", "100001", "\"1G\""])),
                4 => ("pids.max", dice.pick(&["10", "\"max\"", "500"])),
                _ => ("cpu.idle", dice.pick(&["0", "1"])),
            };
            if knobs.iter().all(|(n, _)| *n != name) {
                knobs.push((name, value));
            }
        }
        if knobs.iter().any(|(n, _)| *n == "cpu.idle") {
            knobs.retain(|(n, _)| *n != "cpu.shares");
        }
        let knobs: Vec<String> = knobs.iter().map(|(n, v)| format!("\"{n}\": {v}")).collect();
        let below = if depth > 0 && dice.roll(2) == 0 { document(dice, depth - 1) } else { String::new() };
        groups.push(format!("\"{name}\": {{\"knobs\": {{{}}}, \"groups\": {{{below}}}}}", knobs.join(", ")));
    }
    groups.join(", ")
}

struct World {
    kernel: Kernel,
    approval: Approval,
}

impl World {
    fn plan(&mut self, document: &str) -> Plan {
        let desired = parse(document.as_bytes()).unwrap();
        let machine = Machine { memory: 1 << 30, cpus: 4, page: 4096, disks: Vec::new(), devices: BTreeMap::new() };
        let actual = Actual { machine, hierarchies: vec![self.kernel.observe()] };
        let first = plan(&desired, &actual, &Policy::default(), &self.approval);
        match &first.guard {
            Some(guard) if !guard.approved => {
                self.approval.digests.insert(guard.digest.clone());
                plan(&desired, &actual, &Policy::default(), &self.approval)
            }
            _ => first,
        }
    }

    /// A round; it may be cut short, and calls may fail that would not.
    fn round(&mut self, document: &str, dice: &mut Dice, chaos: bool) -> Plan {
        let plan = self.plan(document);
        let due: Vec<Action> = plan.due().cloned().collect();
        let cut = if chaos && dice.roll(2) == 0 { dice.roll(due.len() as u64 + 1) as usize } else { due.len() };
        for action in &due[..cut] {
            if chaos && dice.roll(8) == 0 {
                continue; // EIO, EAGAIN, ENOMEM: not done.
            }
            let _ = self.kernel.run(action, &plan);
        }
        plan
    }

    fn meddle(&mut self, dice: &mut Dice) {
        let paths: Vec<GroupPath> = self.kernel.groups.keys().cloned().collect();
        let path = paths[dice.roll(paths.len() as u64) as usize].clone();
        match dice.roll(6) {
            0 => drop(self.kernel.rmdir(&path)),
            1 => {
                let name = dice.pick(&["a", "c", "theirs", "x"]);
                let _ = path.child(name).filter(|_| !path.is_leaf()).map(|p| self.kernel.mkdir(&p));
            }
            2 if !path.is_root() => {
                let files: Vec<String> = self.kernel.groups[&path].files.keys().cloned().collect();
                let values = ["1", "77", "100000", "max", "0-1", "-1", "50000 100000"];
                if let Some(file) = files.get(dice.roll(files.len().max(1) as u64) as usize)
                    && file != "cgroup.subtree_control"
                {
                    let _ = self.kernel.write(&path, file, dice.pick(&values));
                }
            }
            3 => drop(self.kernel.attach(&path, 1 + dice.roll(3) as u32)),
            4 if !path.is_root() => {
                if let Some(node) = self.kernel.groups.get_mut(&path) {
                    node.mark = Marked::No;
                }
            }
            _ => {}
        }
    }
}

/// Runs one history. True: the kernel refuses nothing in the end. Else what went wrong.
fn history(seed: u64, kernel: Kernel) -> Result<bool, String> {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut world = World { kernel, approval: Approval::default() };
    let mut text = String::from("{\"groups\": {}}");
    for _ in 0..3 + dice.roll(5) {
        if dice.roll(2) == 0 {
            text = format!(
                "{{\"controllers\": [\"cpu\", \"cpuset\", \"memory\", \"pids\"], \"groups\": {{{}}}}}",
                document(&mut dice, 2)
            );
        }
        world.round(&text, &mut dice, true);
        for _ in 0..dice.roll(3) {
            world.meddle(&mut dice);
        }
    }
    // Peace. Others' groups as they are now may not change any more, but for those that the document names.
    let desired = parse(text.as_bytes()).unwrap();
    let declared = |path: &GroupPath| desired.groups.contains_key(path) || path.is_root() || path.is_leaf();
    let others: BTreeMap<GroupPath, Node> = world
        .kernel
        .groups
        .iter()
        .filter(|(path, node)| node.mark == Marked::No && !declared(path))
        .map(|(path, node)| (path.clone(), node.clone()))
        .collect();
    let mut refused = BTreeSet::new();
    for _ in 0..8 {
        let plan = world.plan(&text);
        refused.clear();
        for action in plan.due().cloned().collect::<Vec<_>>() {
            if let Err(why) = world.kernel.run(&action, &plan) {
                // A document may ask for values that no kernel gives; groups can always be made and removed.
                if !matches!(action.op, Op::Write(_)) {
                    return Err(format!("{why}: {:?} of {}\n{text}", action.op, action.group));
                }
                refused.insert((action.group.clone(), why));
            }
        }
        if world.plan(&text).is_empty() {
            break;
        }
    }
    let left = world.plan(&text);
    // What the kernel refuses for a reason in the document itself stays a failure, and nothing else may be left.
    let explained = |a: &Action| a.held.is_some() || refused.iter().any(|(group, _)| a.group == *group);
    if let Some(action) = left.actions.iter().find(|a| !explained(a)) {
        return Err(format!("does not come to rest: {action:?} of {:?}\n{text}", lines(&left)));
    }
    let impossible = ["EINVAL", "EACCES", "EBUSY", "ENOSPC", "ERANGE"];
    if let Some((group, why)) = refused.iter().find(|(_, why)| !impossible.contains(why)) {
        return Err(format!("{why} on {group}\n{text}"));
    }
    for path in
        desired.groups.keys().filter(|p| !left.refuses("unified", p) && !left.refuses("cpu,cpuset,memory,pids", p))
    {
        if !world.kernel.groups.contains_key(path) {
            return Err(format!("{path} is missing\n{text}"));
        }
    }
    for (path, node) in &others {
        let now = world.kernel.groups.get(path);
        // Processes of removed groups move up, and what v2 hands down brings files.
        let same = |now: &Node| {
            now.mark == Marked::No && node.files.iter().all(|(k, v)| now.files.get(k).is_none_or(|n| n == v))
        };
        if !now.is_some_and(same) {
            return Err(format!("{path}, which is others', was touched: {node:?} -> {now:?}\n{text}"));
        }
    }
    Ok(refused.is_empty())
}

fn schedules() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    match number("CGROVE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("CGROVE_SCHEDULES").unwrap_or(5_000),
    }
}

fn all_come_to_rest(kernel: &Kernel) {
    let (mut whole, all) = (0, schedules());
    for seed in all.clone() {
        match history(seed, kernel.clone()) {
            Ok(entirely) => whole += u64::from(entirely),
            Err(why) => panic!("CGROVE_SEED={seed}: {why}"),
        }
    }
    // A document may ask for what no kernel gives, such as a child's CPUs outside its parent's; not too many do.
    println!("{} histories came to rest, {whole} of them with nothing refused", all.clone().count());
    assert!(all.count() < 100 || whole * 3 > schedules().end, "{whole}");
}

#[test]
fn random_histories_on_v1_come_to_rest() {
    all_come_to_rest(&Kernel::v1("cpu,cpuset,memory,pids"));
}

#[test]
fn random_histories_on_v2_come_to_rest() {
    all_come_to_rest(&Kernel::v2());
}
