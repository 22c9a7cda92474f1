//! What a round did: into the log, and onto the board.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use cgrove_cgroupfs::Fault;
use cgrove_cgroupfs::apply::Outcome;
use cgrove_cgroupfs::attach::Move;
use cgrove_core::event::Kind;
use cgrove_core::ids::GroupPath;
use cgrove_core::plan::{Action, Note, Op};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{Event, MOST_LINES, Reconciler};
use crate::clock::now;
use crate::engine::Round;
use crate::events::News;
use crate::status::{Failure, Held, Listed};
use crate::tasks::{self, Synced};

impl Reconciler {
    fn version(&self) -> Option<i64> {
        self.document.borrow().as_ref().map(|d| d.version)
    }

    pub(super) fn record(&mut self, event: Event, round: Round) {
        let version = self.version();
        let mut failures = Vec::new();
        let mut notes = round.plan.notes.clone();
        let mut pending = false;
        let mut repaired = Vec::new();
        let mut done = 0;
        let mut lines = self.lines.begin(event == Event::Document);
        for (action, outcome) in &round.outcomes {
            match outcome {
                Outcome::Done { kept } => {
                    done += 1;
                    let (hierarchy, group, knob) = (&action.hierarchy, action.group.as_str(), knob(action));
                    let kept = kept.as_ref().map(|k| format!("; the kernel made it {k}")).unwrap_or_default();
                    if lines.fits(&action.group) {
                        info!(hierarchy, group, knob, document_version = version, "{}{kept}", verb(action));
                    }
                    repaired.push(told(
                        Kind::DriftRepaired,
                        action,
                        format!("{}{kept}{}", verb(action), found(action)),
                    ));
                }
                // What could not be made was told, with its cause.
                Outcome::AlreadySo | Outcome::Skipped => {}
                Outcome::Pending { why } => {
                    pending = true;
                    notes.push(Note {
                        hierarchy: action.hierarchy.clone(),
                        group: action.group.clone(),
                        knob: knob(action).map(str::to_owned),
                        text: why.clone(),
                    });
                }
                // The group went away meanwhile: look again.
                Outcome::Failed { fault } if action.op != Op::Create && fault.vanished() => self.dirty = true,
                Outcome::Failed { fault } => failures.push(failure(action, fault)),
            }
        }
        if lines.left_out > 0 {
            let groups: BTreeSet<&GroupPath> = lines.groups.iter().collect();
            info!(count = lines.left_out, "and {} more actions were done: {}", lines.left_out, some_of(&groups));
        }
        failures.extend(round.faults.iter().map(|f| Failure {
            hierarchy: String::new(),
            group: f.path.display().to_string(),
            knob: None,
            errno: Some(f.code),
            error: f.to_string(),
        }));
        let new = self.known_failures.news(&failures);
        let mut lines = self.failed_lines.begin(event == Event::Document);
        let mut written = 0;
        for f in new.iter().take(MOST_LINES) {
            if lines.fits(&GroupPath::parse(&f.group).unwrap_or_else(|_| GroupPath::root())) {
                let (hierarchy, group, knob) = (&f.hierarchy, &f.group, f.knob.as_deref());
                warn!(hierarchy, group, knob, errno = f.errno, document_version = version, "{}", f.error);
                written += 1;
            }
        }
        let more = new.len() - written;
        if more > 0 {
            warn!(count = more, document_version = version, "and {more} more actions failed");
        }
        let more = new.len().saturating_sub(MOST_LINES) as u64;
        self.board.journal.tell(new.iter().take(MOST_LINES).map(|f| News {
            group: GroupPath::parse(&f.group).ok(),
            hierarchy: Some(f.hierarchy.clone()).filter(|h| !h.is_empty()),
            knob: f.knob.clone(),
            ..News::new(Kind::ActionFailed, f.error.clone())
        }));
        self.board.journal.tell(and_more(Kind::ActionFailed, more));
        let waiting: Vec<(&Action, Held)> = round.plan.actions.iter().filter_map(|a| Some((a, held(a)?))).collect();
        let guard = round.plan.guard.clone();
        let mut by_errno = BTreeMap::new();
        failures.iter().for_each(|f| *by_errno.entry(f.errno).or_default() += 1);
        // What an approval lets go is said by the guard, too.
        let (others, guarded): (Vec<_>, Vec<_>) = waiting.iter().partition(|(_, held)| !held.why.starts_with("guard"));
        let in_order = others.into_iter().chain(guarded).map(|(_, held)| held.clone());
        let known = self.board.update(|s| {
            let p = &mut s.plan;
            let known = p.guard == guard && p.held_total == waiting.len();
            p.rounds += 1;
            p.done_total += done;
            p.at = now();
            (p.error, p.progress) = (None, None);
            if !round.plan.is_empty() {
                (p.digest, p.actions) = (round.plan.digest(), round.plan.actions.len());
            }
            (p.failures, p.failures_total) = (Listed::of(failures.iter().cloned()), failures.len());
            p.failures_by_errno = by_errno;
            (p.held, p.held_total) = (Listed::of(in_order), waiting.len());
            (p.notes, p.notes_total) = (Listed::of(notes.iter().cloned()), notes.len());
            p.guard = guard;
            known
        });
        if let Some(guard) = round.plan.guard.as_ref().filter(|g| !g.approved && !known) {
            error!("removals held: {}; `cgrove approve {}` lets them go", guard.why, guard.digest);
            let removals: BTreeSet<&GroupPath> =
                waiting.iter().filter(|(a, _)| a.op == Op::Remove).map(|(a, _)| &a.group).collect();
            let text = format!("{}: {}; cgrove approve {}", guard.why, some_of(&removals), guard.digest);
            self.board
                .journal
                .tell([News { count: Some(removals.len() as u64), ..News::new(Kind::RemovalsHeld, text) }]);
        }
        let knobs: Vec<_> = waiting.iter().filter(|(a, _)| a.op != Op::Remove).map(|(a, h)| Waits(a, h)).collect();
        let new = self.known_held.news(&knobs);
        self.board
            .journal
            .tell(new.iter().take(MOST_LINES).map(|Waits(a, held)| told(Kind::ActionHeld, a, held.why.clone())));
        self.board.journal.tell(and_more(Kind::ActionHeld, new.len().saturating_sub(MOST_LINES) as u64));
        if !round.plan.is_empty() {
            info!(?event, actions = round.plan.actions.len(), done, failed = failures.len(), "reconciled");
        }
        if event == Event::Document && !round.plan.is_empty() {
            let version = version.unwrap_or_default();
            let counted = counted(&round.outcomes);
            let text =
                format!("document version {version}: {counted}, {} failed, {} held", failures.len(), waiting.len());
            self.board.journal.tell([News { count: Some(done), ..News::new(Kind::PlanApplied, text) }]);
        } else if matches!(event, Event::Drift | Event::Resync) {
            let more = repaired.len().saturating_sub(MOST_LINES);
            repaired.truncate(MOST_LINES);
            self.board.journal.tell(repaired.into_iter().chain(and_more(Kind::DriftRepaired, more as u64)));
        }
        let failed = !failures.is_empty() || pending || round.waits_for_state;
        self.record_tasks(&round.tasks);
        self.last_tasks = Instant::now();
        self.next_tasks = self.last_tasks + self.config.tasks.interval;
        self.ears.listen_to(round.places);
        self.schedule(failed);
    }

    pub(super) fn record_tasks(&mut self, synced: &Synced) {
        let look = &synced.look;
        let mut problems = look.problems.clone();
        problems
            .extend(synced.faults.iter().map(|(step, fault)| format!("pid {} to {}: {fault}", step.pid, step.group)));
        let refused: Vec<Refused<'_>> = synced.faults.iter().map(|(step, fault)| Refused(step, fault)).collect();
        let new = self.known_refusals.news(&refused);
        for Refused(step, fault) in new.iter().take(MOST_LINES) {
            warn!(group = step.group.as_str(), errno = fault.code, "{fault}");
        }
        let more = new.len().saturating_sub(MOST_LINES);
        if more > 0 {
            warn!(count = more, "and {more} more processes could not be moved");
        }
        let new = self.known_units.news(&synced.left_units);
        for line in new.iter().take(MOST_LINES) {
            warn!("{line}");
        }
        let more = new.len().saturating_sub(MOST_LINES);
        if more > 0 {
            warn!(count = more, "and processes of {more} more systemd units were moved");
        }
        if synced.moved > 0 {
            info!(moved = synced.moved, "processes moved");
        }
        self.board.update(|s| {
            let t = &mut s.tasks;
            t.at = now();
            t.named = look.named;
            t.groups = tasks::counts(&look.placement).map(|(path, n)| (path.clone(), n)).collect();
            (t.groups_total, t.processes) = (t.groups.len(), t.groups.values().sum());
            t.moved_total += synced.moved as u64;
            (t.problems, t.problems_total) = (Listed::lines(problems.iter()), problems.len());
            let alone = &look.misplaced.left_alone;
            (t.left_alone, t.left_alone_total) = (Listed::lines(alone.iter()), alone.len());
            (t.left_units, t.left_units_total) = (Listed::lines(synced.left_units.iter()), synced.left_units.len());
        });
    }
}

/// A knob that waits, as it is compared with those of the last round.
struct Waits<'a>(&'a Action, &'a Held);

impl Hash for Waits<'_> {
    fn hash<H: Hasher>(&self, to: &mut H) {
        self.1.hash(to);
    }
}

/// A move that was refused, by pid, start time and error.
struct Refused<'a>(&'a Move, &'a Fault);

impl Hash for Refused<'_> {
    fn hash<H: Hasher>(&self, to: &mut H) {
        (self.0.pid, self.0.start, self.1.code).hash(to);
    }
}

/// What a list that was cut leaves out, as one event.
fn and_more(kind: Kind, more: u64) -> Option<News> {
    (more > 0).then(|| News { count: Some(more), is_sum: true, ..News::new(kind, format!("and {more} more")) })
}

fn verb(action: &Action) -> String {
    match &action.op {
        Op::EnableAbove { controllers } => format!("{} handed down from the root", controllers.join(" ")),
        Op::Settle => "its processes moved into its leaf".into(),
        Op::Create => "created".into(),
        Op::Adopt { .. } => "adopted".into(),
        Op::Write(w) => format!("{} = {}", w.file, w.to.join(", ")),
        Op::Forget { file } => format!("{file} is no longer ours"),
        Op::Remove => "removed".into(),
    }
}

/// What somebody had made of it.
fn found(action: &Action) -> String {
    match &action.op {
        Op::Write(w) => {
            w.from.as_ref().map(|from| format!("; it said {}", from.trim().replace('\n', ", "))).unwrap_or_default()
        }
        Op::Create => "; it was gone".into(),
        _ => String::new(),
    }
}

/// `2 created, 5 written`.
fn counted(outcomes: &[(Action, Outcome)]) -> String {
    let done = |wanted: fn(&Op) -> bool| {
        outcomes.iter().filter(|(a, o)| matches!(o, Outcome::Done { .. }) && wanted(&a.op)).count()
    };
    let kinds = [
        (done(|op| matches!(op, Op::Create)), "created"),
        (done(|op| matches!(op, Op::Adopt { .. })), "adopted"),
        (done(|op| matches!(op, Op::Write(_))), "written"),
        (done(|op| matches!(op, Op::Remove)), "removed"),
    ];
    let there: Vec<String> = kinds.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    if there.is_empty() { "nothing to do".into() } else { there.join(", ") }
}

/// The first few, and how many more.
fn some_of(groups: &BTreeSet<&GroupPath>) -> String {
    const SOME: usize = 5;
    let mut text = groups.iter().take(SOME).map(ToString::to_string).collect::<Vec<_>>().join(" ");
    if groups.len() > SOME {
        text.push_str(&format!(" and {} more", groups.len() - SOME));
    }
    text
}

fn held(action: &Action) -> Option<Held> {
    Some(Held {
        hierarchy: action.hierarchy.clone(),
        group: action.group.to_string(),
        knob: knob(action).map(str::to_owned),
        why: action.held.clone()?,
    })
}

fn told(kind: Kind, action: &Action, text: String) -> News {
    News {
        group: Some(action.group.clone()),
        hierarchy: Some(action.hierarchy.clone()),
        knob: knob(action).map(str::to_owned),
        ..News::new(kind, text)
    }
}

fn knob(action: &Action) -> Option<&str> {
    match &action.op {
        Op::Write(w) => Some(&w.knob),
        _ => None,
    }
}

fn failure(action: &Action, fault: &Fault) -> Failure {
    Failure {
        hierarchy: action.hierarchy.clone(),
        group: action.group.to_string(),
        knob: knob(action).map(str::to_owned),
        errno: Some(fault.code),
        error: fault.to_string(),
    }
}
