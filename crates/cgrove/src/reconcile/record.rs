//! What a round did: into the log, and onto the board.

use std::collections::BTreeSet;

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
use crate::status::{Failure, Held};
use crate::tasks::{self, Synced};

impl Reconciler {
    fn version(&self) -> Option<i64> {
        self.document.borrow().as_ref().map(|d| d.version)
    }

    pub(super) fn record(&mut self, event: Event, round: Round) {
        let mut failures = Vec::new();
        let mut notes = round.plan.notes.clone();
        let mut pending = false;
        let mut repaired = Vec::new();
        let mut done = 0;
        for (action, outcome) in &round.outcomes {
            match outcome {
                Outcome::Done { kept } => {
                    done += 1;
                    let (hierarchy, group, knob) = (&action.hierarchy, action.group.as_str(), knob(action));
                    let kept = kept.as_ref().map(|k| format!("; the kernel made it {k}")).unwrap_or_default();
                    info!(hierarchy, group, knob, document_version = self.version(), "{}{kept}", verb(action));
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
        failures.extend(round.faults.iter().map(|f| Failure {
            hierarchy: String::new(),
            group: f.path.display().to_string(),
            knob: None,
            errno: Some(f.code),
            error: f.to_string(),
        }));
        for f in failures.iter().filter(|f| !self.known_failures.contains(f)) {
            let (hierarchy, group, knob) = (&f.hierarchy, &f.group, f.knob.as_deref());
            warn!(hierarchy, group, knob, errno = f.errno, document_version = self.version(), "{}", f.error);
            self.board.journal.tell([News {
                group: GroupPath::parse(group).ok(),
                hierarchy: Some(hierarchy.clone()).filter(|h| !h.is_empty()),
                knob: f.knob.clone(),
                ..News::new(Kind::ActionFailed, f.error.clone())
            }]);
        }
        let waiting: Vec<(&Action, Held)> = round.plan.actions.iter().filter_map(|a| Some((a, held(a)?))).collect();
        let guard = round.plan.guard.clone();
        let (known, known_held) = self.board.update(|s| {
            let p = &mut s.plan;
            let held = waiting.iter().map(|(_, held)| held.clone()).collect();
            let known_held = std::mem::replace(&mut p.held, held);
            let known = p.guard == guard && known_held.len() == waiting.len();
            p.rounds += 1;
            p.done_total += done;
            p.at = now();
            (p.error, p.progress) = (None, None);
            if !round.plan.is_empty() {
                (p.digest, p.actions) = (round.plan.digest(), round.plan.actions.len());
            }
            (p.failures, p.guard, p.notes) = (failures.clone(), guard, notes);
            (known, known_held)
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
        let knobs = waiting.iter().filter(|(a, held)| a.op != Op::Remove && !known_held.contains(held));
        self.board.journal.tell(knobs.take(MOST_LINES).map(|(a, held)| told(Kind::ActionHeld, a, held.why.clone())));
        if !round.plan.is_empty() {
            info!(?event, actions = round.plan.actions.len(), done, failed = failures.len(), "reconciled");
        }
        if event == Event::Document && !round.plan.is_empty() {
            let version = self.version().unwrap_or_default();
            let counted = counted(&round.outcomes);
            let text =
                format!("document version {version}: {counted}, {} failed, {} held", failures.len(), waiting.len());
            self.board.journal.tell([News { count: Some(done), ..News::new(Kind::PlanApplied, text) }]);
        } else if matches!(event, Event::Drift | Event::Resync) {
            let more = repaired.len().saturating_sub(MOST_LINES);
            repaired.truncate(MOST_LINES);
            if more > 0 {
                repaired.push(News {
                    count: Some(more as u64),
                    ..News::new(Kind::DriftRepaired, format!("and {more} more"))
                });
            }
            self.board.journal.tell(repaired);
        }
        let failed = !failures.is_empty() || pending;
        self.known_failures = failures;
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
        let refused = |(step, fault): &(Move, Fault)| (step.pid, step.start, fault.code);
        for pair in synced.faults.iter().filter(|pair| !self.known_refusals.contains(&refused(pair))).take(MOST_LINES) {
            let (step, fault) = pair;
            warn!(group = step.group.as_str(), errno = fault.code, "{fault}");
        }
        self.known_refusals = synced.faults.iter().map(refused).collect();
        for line in synced.left_units.iter().filter(|l| !self.known_units.contains(l)) {
            warn!("{line}");
        }
        self.known_units.clone_from(&synced.left_units);
        if synced.moved > 0 {
            info!(moved = synced.moved, "processes moved");
        }
        self.board.update(|s| {
            let t = &mut s.tasks;
            t.at = now();
            t.named = look.named;
            t.groups = tasks::counts(&look.placement).map(|(path, n)| (path.to_string(), n)).collect();
            t.processes = t.groups.values().sum();
            t.moved_total += synced.moved as u64;
            t.problems = shortened(problems);
            t.left_alone = shortened(look.misplaced.left_alone.clone());
            t.left_units.clone_from(&synced.left_units);
        });
    }
}

/// A list for people; thousands of lines help nobody.
fn shortened(mut lines: Vec<String>) -> Vec<String> {
    let more = lines.len().saturating_sub(MOST_LINES);
    if more > 0 {
        lines.truncate(MOST_LINES);
        lines.push(format!("and {more} more"));
    }
    lines
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
