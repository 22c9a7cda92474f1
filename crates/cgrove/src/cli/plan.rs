//! `cgrove plan` and `cgrove apply`: what would change, and what did.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cgrove_cgroupfs::apply::Outcome;
use cgrove_cgroupfs::attach::{Move, Origins, left_unit};
use cgrove_core::desired::Desired;
use cgrove_core::ids::{GroupPath, TASKS_LEAF};
use cgrove_core::plan::{self as core, Action, Approval, Op, Plan, Prune};
use serde_json::json;

use super::args::Args;
use super::document::{self, Found};
use crate::claims::Answers;
use crate::engine::{self, Engine, Scenery};
use crate::exit::{self, Exit};
use crate::progress::{Progress, patiently};
use crate::source::{Origin, last_good};
use crate::state::{self, Change, Keeper, Key, Known};
use crate::tasks::Subject;
use crate::term::{self, Page, Paint};
use crate::traces::Traces;
use cgrove_config::{self as config, Config};
use cgrove_state::StateDir;

/// What takes time on a large node.
const LOOKING: &str = "looking at the kernel's groups";

/// A command waits so long for the disk.
const DISK: Duration = Duration::from_secs(30);

/// `cgrove plan`: reads everything, changes nothing.
pub(super) fn plan(args: &Args, tree: Option<&str>) -> Result<u8, Exit> {
    let config = config_or_default(args, tree)?;
    let found = document::find(args, tree)?;
    let desired = document::parse(&found)?;
    document::warn_unless_fit(&config, &found);
    let previous = previous(&config, &desired);
    let (plan, moves) = patiently(LOOKING, || compute(&config, &desired, previous))?;
    if args.global.json() {
        let moves: Vec<_> = moves
            .iter()
            .map(|m| json!({"hierarchy": m.hierarchy, "group": m.group, "pid": m.pid, "from": m.from, "unit": m.unit}))
            .collect();
        let report = json!({
            "digest": plan.digest(), "document": desired.digest, "actions": plan.actions, "moves": moves,
            "notes": plan.notes, "guard": plan.guard, "warnings": desired.warnings,
        });
        term::json(&report);
    } else {
        header(&config, &desired, &found.place);
        term::page(&render(&plan, &moves, &desired, Paint::stdout()));
    }
    Ok(if plan.is_empty() && moves.is_empty() { 0 } else { exit::CHANGES })
}

/// For `cgrove push`, on standard output before the document is written.
pub(super) fn show_for_push(config: &Config, desired: &Desired, previous: Option<String>) {
    match patiently(LOOKING, || compute(config, desired, previous)) {
        Ok((plan, moves)) => {
            term::page(&render(&plan, &moves, desired, Paint::stdout()));
        }
        Err(e) => term::err(&format!("cgrove: this node cannot show its plan: {}", e.message)),
    }
}

/// `cgrove apply`: one reconcile.
pub(super) fn apply(args: &Args, tree: Option<&str>, traces: &Traces) -> Result<u8, Exit> {
    let config = document::load(args)?;
    let found = document::find(args, tree)?;
    let desired = document::parse(&found)?;
    document::warn_unless_fit(&config, &found);
    crate::permission::check(&config)?;
    traces.begin(&config.node);
    let keeper = Keeper::open(&config.tree.state_dir)?;
    keeper.document_waits(None);
    let mut engine = Engine::new(config.clone(), keeper.clone())?;
    let previous = previous(&config, &desired);
    engine.progress = Some(Progress::new(|done, total| term::err(&format!("cgrove: {done} of {total} actions done"))));
    let round = engine.reconcile(&desired, previous.clone())?;
    keep(&config, &keeper, &found, desired.clone(), previous);
    let failed =
        round.outcomes.iter().filter(|(_, o)| matches!(o, Outcome::Failed { .. } | Outcome::Pending { .. })).count()
            + round.tasks.faults.len()
            + round.faults.len();
    if args.global.json() {
        let actions: Vec<_> = round.outcomes.iter().map(|(a, o)| json!({"action": a, "result": o})).collect();
        let held: Vec<_> = round.plan.actions.iter().filter(|a| a.held.is_some()).collect();
        let report = json!({
            "digest": round.plan.digest(), "actions": actions, "held": held, "moved": round.tasks.moved,
            "notes": round.plan.notes, "guard": round.plan.guard, "problems": round.tasks.look.problems,
        });
        term::json(&report);
    } else {
        let paint = Paint::stdout();
        let held = round.plan.actions.iter().filter(|a| a.held.is_some()).count();
        header(&config, &desired, &found.place);
        term::page(&render(&round.plan, &[], &desired, paint));
        for (action, outcome) in &round.outcomes {
            match outcome {
                Outcome::Failed { fault } => {
                    term::err(&format!("{} {} {}: {fault}", paint.red("failed"), action.hierarchy, action.group))
                }
                Outcome::Pending { why } => {
                    term::err(&format!("{} {} {}: {why}", paint.red("pending"), action.hierarchy, action.group));
                }
                Outcome::Done { kept: Some(kept) } => {
                    term::out(&format!("note: the kernel made it {kept}: {} {}", action.hierarchy, action.group));
                }
                _ => {}
            }
        }
        for fault in round.tasks.faults.iter().map(|(_, f)| f).chain(&round.faults) {
            term::err(&format!("{} {fault}", paint.red("failed")));
        }
        for problem in &round.tasks.look.problems {
            term::err(&format!("pid file: {problem}"));
        }
        term::out(&format!(
            "Applied: {} done, {failed} failed, {held} held, {} moved.",
            round.outcomes.iter().filter(|(_, o)| matches!(o, Outcome::Done { .. } | Outcome::AlreadySo)).count(),
            count(round.tasks.moved, "process", "processes")
        ));
    }
    Ok(if failed > 0 { 69 } else { 0 })
}

/// What was applied is in force: a later `allow_removals` refers to it. What the disk does not take is said.
fn keep(config: &Config, keeper: &Keeper, found: &Found, desired: Desired, previous: Option<String>) {
    let last = document::last_good(config).ok().flatten();
    let (version, mzxid) = last.map_or((0, None), |d| (d.version, d.mzxid));
    let bytes = found.bytes.clone();
    let document = crate::source::Document { bytes, version, desired: Arc::new(desired), previous, mzxid };
    keeper.change(Key::LastGood, Change::Put(last_good::encode(&document, &Origin::of(config))));
    let settled = keeper.settle(DISK);
    if let Some(e) = settled.error {
        term::err(&format!("cgrove: warning: state: {e}; removals are held until it can be read and written"));
    } else if !settled.pending.is_empty() {
        let dir = config.tree.state_dir.display();
        term::err(&format!("cgrove: warning: {dir}: the disk has not taken the document in {} s", DISK.as_secs()));
    }
}

/// The digest of the document in force, if it is another one.
fn previous(config: &Config, desired: &Desired) -> Option<String> {
    let last = document::last_good(config).ok().flatten()?;
    (last.desired.digest != desired.digest).then(|| last.desired.digest.clone())
}

/// What lets held removals go, as the next round would find it.
fn approval(config: &Config, desired: &Desired, previous: Option<String>) -> (Approval, bool) {
    let dir = StateDir::new(&config.tree.state_dir);
    let known = Known::read(&dir, config.parents());
    // Others than root may not look; the daemon does.
    if let Err(e) = known.as_ref().map_err(ToString::to_string).map(|_| ())
        && nix::unistd::geteuid().is_root()
    {
        term::err(&format!("cgrove: warning: state: {e}; removals are held until it can be read and written"));
    }
    let known = known.unwrap_or_default();
    for lost in known.held_lost.iter().chain(&known.begun_lost) {
        term::err(&format!("cgrove: warning: {lost}; every removal waits for `cgrove approve`"));
    }
    let counted = known.begun_lost.is_some() || known.begun.as_ref() == Some(&desired.digest);
    let digests = state::given(&dir).0;
    let approval =
        Approval { previous: previous.filter(|_| !counted), digests, removals: BTreeSet::new(), held: known.held };
    (approval, known.held_lost.is_some())
}

/// `plan TREE` works without a configuration, so that a document can be tried on any node.
fn config_or_default(args: &Args, tree: Option<&str>) -> Result<Arc<Config>, Exit> {
    match tree {
        Some(_) if !args.global.has_config() => {
            let path = args.global.config();
            term::err(&format!("cgrove: no {}: planning with the defaults", path.display()));
            Ok(Arc::new(config::standard(config::environment())?))
        }
        _ => document::load(args),
    }
}

fn compute(config: &Config, desired: &Desired, previous: Option<String>) -> Result<(Plan, Vec<Move>), Exit> {
    let Scenery { host, actual, desired, trouble } = engine::observe(config, desired)?;
    let (mut approval, held_lost) = approval(config, &desired, previous);
    let mut plan = core::plan(&desired, &actual, &config.cgroup.policy, &approval);
    if held_lost {
        approval.held = engine::removals(&plan);
        plan = core::plan(&desired, &actual, &config.cgroup.policy, &approval);
    }
    plan.notes.extend(trouble.iter().map(|why| engine::about_marks(why)));
    let refused = |hierarchy: &str, group: &GroupPath| plan.refuses(hierarchy, group);
    let subject = Subject { config, host: &host, desired: &desired, refused: &refused, answers: &Answers::default() };
    document::warn_unless_root();
    let look = subject.look(&subject.sources(), &mut Origins::default());
    Ok((plan, look.misplaced.moves))
}

fn header(config: &Config, desired: &Desired, place: &str) {
    let prune = match config.prune() {
        Prune::Owned => "owned",
        Prune::All => "all",
        Prune::None => "none",
    };
    term::out(place);
    term::out(&format!("{} groups, parent {}, prune {prune}", desired.groups.len(), config.parent_shown()));
    term::out("");
}

/// The plan for people: one block a group, what happens first in colour, then the knobs.
pub(super) fn render(plan: &Plan, moves: &[Move], desired: &Desired, paint: Paint) -> Page {
    let mut out = Page::default();
    for warning in &desired.warnings {
        out.line(format!("{} {warning}", paint.yellow("warning")));
    }
    let mut groups: BTreeMap<&GroupPath, Vec<&Action>> = BTreeMap::new();
    // Leaves are part of their groups, which say so themselves where it matters.
    for action in plan.actions.iter().filter(|a| !a.group.is_leaf()) {
        groups.entry(&action.group).or_default().push(action);
    }
    for (path, actions) in &groups {
        block(&mut out, path, actions, paint);
    }
    for line in leaving(moves) {
        out.line(format!("{} {line}", paint.yellow("warning")));
    }
    for (group, count) in count_moves(moves) {
        out.line(format!("  {} {group}  {count} to move in", paint.yellow("»")));
    }
    let mut notes: Vec<String> = plan
        .notes
        .iter()
        .map(|n| {
            format!(
                "{} {}{}: {}",
                n.hierarchy,
                n.group,
                n.knob.as_ref().map(|k| format!(" {k}")).unwrap_or_default(),
                n.text
            )
        })
        .collect();
    notes.dedup();
    for note in notes {
        out.line(format!("  {} {note}", paint.dim("i")));
    }
    if let Some(guard) = plan.guard.as_ref().filter(|g| !g.approved) {
        out.line("");
        out.line(format!("{} {}.", paint.red("Removals are held:"), guard.why));
        out.line(format!("To let them go, once this document is in force: cgrove approve {}", guard.digest));
    }
    if !out.is_empty() {
        out.line("");
    }
    out.line(summary(plan, moves, paint));
    out
}

fn block(out: &mut Page, path: &GroupPath, actions: &[&Action], paint: Paint) {
    let hierarchies = |wanted: fn(&Op) -> bool| {
        let mut names: Vec<&str> = actions.iter().filter(|a| wanted(&a.op)).map(|a| a.hierarchy.as_str()).collect();
        names.dedup();
        names.join(" ")
    };
    let (created, removed) = (hierarchies(|op| matches!(op, Op::Create)), hierarchies(|op| matches!(op, Op::Remove)));
    let shown = if path.is_root() { "(the parent)" } else { path.as_str() };
    if !removed.is_empty() {
        out.line(format!("  {} {}  {}", paint.red("-"), paint.bold(shown), paint.dim(&removed)));
    } else if !created.is_empty() {
        out.line(format!("  {} {}  {}", paint.green("+"), paint.bold(shown), paint.dim(&created)));
    } else {
        let adopted = hierarchies(|op| matches!(op, Op::Adopt { .. }));
        let adopted = if adopted.is_empty() {
            String::new()
        } else {
            format!("  {}", paint.dim(&format!("adopted in {adopted}")))
        };
        out.line(format!("  {} {}{adopted}", paint.yellow("~"), paint.bold(shown)));
    }
    let mut said = Vec::new();
    for action in actions {
        match &action.op {
            Op::EnableAbove { controllers } => {
                out.line(format!("      {:<28} {} handed down from the root", "controllers", controllers.join(" ")));
            }
            Op::Settle => {
                out.line(format!("      {:<28} its processes move there, because groups are made below", TASKS_LEAF));
            }
            Op::Write(w) if w.want.is_some() => {
                let from =
                    w.from.as_ref().filter(|f| !f.is_empty()).map(|f| format!("{} → ", shorten(f))).unwrap_or_default();
                let to = w.want.as_ref().map(|want| want.shown()).unwrap_or_default();
                let why = match &w.because {
                    Some(_) if w.knob != w.file => format!("  {}", paint.dim(&format!("({})", w.knob))),
                    Some(because) => format!("  {}", paint.dim(&format!("({because})"))),
                    None => String::new(),
                };
                out.line(format!("      {:<28} {from}{to}{why}", w.file));
            }
            Op::Forget { file } => {
                out.line(format!("      {file:<28} {}", paint.dim("left as it is, no longer ours")));
            }
            _ => {}
        }
        if let Some(why) = action.held.as_ref().filter(|why| !said.contains(why)) {
            said.push(why);
            out.line(format!("      {} {why}", paint.red("held:")));
        }
    }
}

/// Moves that take processes out of systemd units, one line for each unit and group.
fn leaving(moves: &[Move]) -> Vec<String> {
    let mut by_unit: BTreeMap<(&String, &GroupPath), Vec<i32>> = BTreeMap::new();
    for step in moves {
        if let Some(unit) = &step.unit {
            by_unit.entry((unit, &step.group)).or_default().push(step.pid);
        }
    }
    by_unit.into_iter().map(|((unit, group), pids)| left_unit(unit, group, &pids)).collect()
}

/// The kernel's "no limit" and several lines made readable.
fn shorten(text: &str) -> String {
    if text.parse::<u64>().is_ok_and(|n| n >= cgrove_core::knobs::MEMORY_MAX - (1 << 20)) {
        return "max".into();
    }
    text.lines().next().unwrap_or_default().into()
}

fn count_moves(moves: &[Move]) -> BTreeMap<&GroupPath, String> {
    let mut pids: BTreeMap<&GroupPath, BTreeSet<i32>> = BTreeMap::new();
    for step in moves {
        pids.entry(&step.group).or_default().insert(step.pid);
    }
    pids.into_iter().map(|(g, p)| (g, count(p.len(), "process", "processes"))).collect()
}

/// `1 process`, `2 processes`.
pub(super) fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

fn summary(plan: &Plan, moves: &[Move], paint: Paint) -> String {
    if plan.is_empty() && moves.is_empty() {
        return paint.green("Nothing to change.");
    }
    let paths = |wanted: fn(&Op) -> bool| {
        let due = plan.due().filter(|a| wanted(&a.op) && !a.group.is_leaf());
        let set: BTreeSet<_> = due.map(|a| &a.group).collect();
        set.len()
    };
    let writes = plan.due().filter(|a| matches!(&a.op, Op::Write(w) if w.want.is_some())).count();
    // As people see it: a removal in several hierarchies is one.
    let held: BTreeSet<_> = plan.actions.iter().filter_map(|a| Some((&a.group, a.held.as_ref()?))).collect();
    let held = held.len();
    let mut parts = vec![
        format!("{} to create", paths(|op| matches!(op, Op::Create))),
        format!("{} to write", count(writes, "knob", "knobs")),
        format!("{} to remove", paths(|op| matches!(op, Op::Remove))),
    ];
    if held > 0 {
        parts.push(format!("{held} held"));
    }
    let pids: BTreeSet<_> = moves.iter().map(|m| m.pid).collect();
    if !pids.is_empty() {
        parts.push(format!("{} to move", count(pids.len(), "process", "processes")));
    }
    format!("Plan {}: {}.", plan.digest(), parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgrove_core::actual::{Actual, Group, Hierarchy, MARK_FORMAT, Machine, Mark, Marked, Version};
    use cgrove_core::ids::Controller;
    use cgrove_core::plan::Policy;

    fn node() -> Actual {
        let p = |s| GroupPath::parse(s).unwrap();
        let mark =
            Mark { format: MARK_FORMAT, instance: "cgrove".into(), parent: "/".into(), files: Default::default() };
        let ours = Group {
            mark: Marked::Ours(mark),
            values: [("cpu.shares".to_owned(), "1024\n".to_owned())].into_iter().collect(),
            ..Group::default()
        };
        let groups = [(p("/"), Group::default()), (p("/batch"), ours.clone()), (p("/old"), ours)];
        let hierarchy = |label: &str, controller, files: &[&str]| Hierarchy {
            label: label.into(),
            version: Version::V1,
            controllers: [controller].into_iter().collect(),
            at_root: true,
            present: true,
            complete: true,
            files: files.iter().map(|f| (*f).to_owned()).collect(),
            above: BTreeMap::new(),
            closed_above: Default::default(),
            groups: groups.clone().into(),
        };
        let hierarchies = vec![
            hierarchy("cpu", Controller::Cpu, &["cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us"]),
            hierarchy("memory", Controller::Memory, &["memory.limit_in_bytes"]),
        ];
        let machine = Machine { memory: 8 << 30, cpus: 4, page: 4096, disks: Vec::new(), devices: BTreeMap::new() };
        Actual { machine, hierarchies }
    }

    /// The plan as people see it; change it on purpose only.
    const EXPECTED: &str = "  ~ /batch
      cpu.shares                   1024 → 205  (cpu.weight)
  - /old  cpu memory
  + /web  cpu memory
      cpu.shares                   8192  (cpu.weight)
      memory.limit_in_bytes        512M  (memory.max)
  i cpuacct /: no hierarchy with cpuacct is mounted; what concerns it is left out

Plan DIGEST: 1 to create, 3 knobs to write, 1 to remove.";

    #[test]
    fn a_plan_reads_well() {
        let text = r#"{"controllers": ["cpu", "memory"], "groups": {"batch": {"knobs": {"cpu.weight": 20}},
            "web": {"knobs": {"cpu.weight": 800, "memory.max": "512M"}}}}"#;
        let desired = cgrove_core::document::parse(text.as_bytes()).unwrap();
        let plan = core::plan(&desired, &node(), &Policy::default(), &Approval::default());
        let shown = render(&plan, &[], &desired, Paint::none()).to_string().replace(&plan.digest(), "DIGEST");
        assert_eq!(shown, EXPECTED, "{shown}");
    }

    #[test]
    fn nothing_to_do_says_so() {
        let desired = cgrove_core::document::parse(br#"{"cpu": {}}"#).unwrap();
        assert_eq!(render(&Plan::default(), &[], &desired, Paint::none()).to_string(), "Nothing to change.");
    }
}
