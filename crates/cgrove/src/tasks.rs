//! Processes: where those belong that pid files and rules name, and moving the misplaced. One pass over /proc serves all
//! pid files and hierarchies. Blocking; the worker thread calls it.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};

use cgrove_cgroupfs::attach::{self, Misplaced, Move, Origins, Scene};
use cgrove_cgroupfs::host::Host;
use cgrove_cgroupfs::lock::daemon;
use cgrove_cgroupfs::outside::{Key, NAMES};
use cgrove_cgroupfs::{Fault, doing, procs};
use cgrove_core::desired::Desired;
use cgrove_core::ids::GroupPath;
use cgrove_core::placement::{Census, Claim, Placement, Process, Processes, Rule, may_match};
use cgrove_core::rules::{AllTraits, Known, Needs, Traits};

use crate::claims::{Answers, Files};
use crate::units;
use cgrove_config::Config;

/// A process that forks while we move its children is followed this often in one go.
const PASSES: usize = 20;

/// What a look at all pid files and processes gave.
pub(crate) struct Look {
    pub(crate) placement: Placement,
    pub(crate) misplaced: Misplaced,
    /// Pid files that named a process.
    pub(crate) named: usize,
    /// Pid files and claims that were not believed, each with its reason.
    pub(crate) problems: Vec<String>,
}

/// Rules, and what the node knows about the names in them.
#[derive(Default)]
pub(crate) struct Sources {
    rules: Vec<Rule>,
    known: Known,
    needs: Needs,
    problems: Vec<String>,
}

impl Sources {
    /// What the rules look at.
    pub(crate) fn needs(&self) -> Needs {
        self.needs
    }

    /// Could this process, which has just become what it is, belong to a group by a rule?
    pub(crate) fn concern(&self, process: &Process, traits: &Traits) -> bool {
        may_match(&self.rules, &self.known, process, traits)
    }
}

/// These processes as they are now, but for ourselves. Blocking.
pub(crate) fn look_at(pids: &[i32], needs: Needs) -> Vec<(Process, Traits)> {
    let own = std::process::id();
    procs::look(pids.iter().copied().filter(|pid| u32::try_from(*pid) != Ok(own)), needs)
}

/// What a whole synchronisation came to.
pub(crate) struct Synced {
    pub(crate) look: Look,
    pub(crate) moved: usize,
    pub(crate) faults: Vec<(Move, Fault)>,
    /// What it means for systemd, one line a unit.
    pub(crate) left_units: Vec<String>,
}

/// What a look, and what comes of it, is about.
pub(crate) struct Subject<'a> {
    pub(crate) config: &'a Config,
    pub(crate) host: &'a Host,
    pub(crate) desired: &'a Desired,
    /// Declared groups that belong to others, as the plan found them.
    pub(crate) refused: &'a dyn Fn(&str, &GroupPath) -> bool,
    /// What was answered at earlier looks.
    pub(crate) answers: &'a Answers,
}

impl Subject<'_> {
    /// Looks up what rules refer to. Once for each synchronisation: systemd and users do not change as fast as processes.
    pub(crate) fn sources(&self) -> Sources {
        doing::at("look up the names in rules", "".as_ref());
        let mut out = Sources::default();
        for (i, rule) in self.config.tasks.rules.iter().enumerate() {
            let paths = rule.group.as_deref().map(|name| (name, self.desired.lookup(name)));
            let group = match paths.as_ref().map(|(name, paths)| (name, &paths[..])) {
                None => None,
                Some((_, [path])) => Some((*path).clone()),
                Some((name, [])) => {
                    out.problems.push(format!("tasks.rules[{i}]: the document has no group {name:?}"));
                    continue;
                }
                Some((name, paths)) => {
                    let list: Vec<_> = paths.iter().map(|p| p.as_str()).collect();
                    out.problems
                        .push(format!("tasks.rules[{i}]: {name:?} stands at {}; use the path", list.join(", ")));
                    continue;
                }
            };
            out.rules.push(Rule { group, criteria: rule.criteria.clone(), source: format!("tasks.rules[{i}]") });
        }
        let ignored = self.desired.ignore.iter().map(|c| (None, c, "ignore".to_owned()));
        let wanted = self.desired.groups.iter().flat_map(|(path, group)| {
            group.processes.iter().map(move |c| (Some(path.clone()), c, format!("processes of {path}")))
        });
        for (group, criteria, source) in ignored.chain(wanted) {
            out.rules.push(Rule { group, criteria: criteria.clone(), source });
        }
        out.needs = Needs::of(out.rules.iter().map(|r| &r.criteria));
        // Not to know who a name means is another thing than nobody: then no rule moves anybody this time.
        let mut unknown = false;
        let units = out.rules.iter().filter_map(|r| r.criteria.unit_glob()).collect();
        match units::pids(&units) {
            Ok((units, problems)) => {
                out.problems.extend(problems);
                let started = |pid: i32| Some((pid, procs::read(pid)?.start));
                let named =
                    units.into_iter().map(|(name, pids)| (name, pids.into_iter().filter_map(started).collect()));
                out.known.units = named.collect();
            }
            Err(why) => {
                unknown = true;
                out.problems.push(format!("{why}: no rule is followed this time"));
            }
        }
        let users: BTreeSet<&String> = out.rules.iter().filter_map(|r| r.criteria.user.as_ref()).collect();
        for user in users.into_iter().filter(|u| u.parse::<u32>().is_err()) {
            let name = user.clone();
            // One service answers for all users.
            let key = Key { what: "users".into(), owner: 0 };
            match NAMES.ask(&key, move || nix::unistd::User::from_name(&name).map(|user| user.map(|u| u.uid.as_raw())))
            {
                Ok(Ok(Some(uid))) => {
                    out.known.users.insert(user.clone(), uid);
                }
                Ok(Ok(None)) => {
                    out.problems.push(format!("user {user:?} does not exist here; its rules match nothing"));
                }
                Ok(Err(e)) => {
                    unknown = true;
                    out.problems.push(format!("user {user:?}: {e}: no rule is followed this time"));
                }
                Err(_) => {
                    unknown = true;
                    out.problems.push(format!(
                        "user {user:?}: the user database does not answer (nsswitch.conf): no rule is followed until it does"
                    ));
                }
            }
        }
        let files: BTreeSet<_> = out.rules.iter().filter_map(|r| r.criteria.ancestor_pid_file.clone()).collect();
        let read =
            Files { config: self.config, answers: self.answers }.processes(files.iter().map(Into::into).collect());
        for (file, process) in files.into_iter().zip(read) {
            let (process, problem) = process;
            out.known.pid_files.extend(process.map(|process| (file.clone(), process)));
            out.problems.extend(problem.map(|why| format!("{file}: {why}")));
        }
        if unknown {
            out.rules.clear();
        }
        out
    }

    /// Looks, changes nothing.
    pub(crate) fn look(&self, sources: &Sources, origins: &mut Origins) -> Look {
        self.look_for(sources, origins, &[]).0
    }

    /// Looks, and says of these processes where they belong and why.
    pub(crate) fn look_for(
        &self,
        sources: &Sources,
        origins: &mut Origins,
        pids: &[i32],
    ) -> (Look, Vec<(Option<GroupPath>, String)>) {
        let moment = self.moment(sources);
        let reasons = pids.iter().map(|pid| self.census(sources, &moment).why(*pid)).collect();
        (self.compare(sources, &moment, origins, None), reasons)
    }

    fn moment(&self, sources: &Sources) -> Moment {
        doing::at("look at pid files and processes", "".as_ref());
        let (claims, mut problems) = Files { config: self.config, answers: self.answers }.claims(self.desired);
        let (processes, traits) = procs::scan(sources.needs);
        problems.extend(in_doubt(&traits));
        Moment { claims, problems, processes, traits }
    }

    fn census<'a>(&self, sources: &'a Sources, moment: &'a Moment) -> Census<'a> {
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        Census {
            claims: &moment.claims,
            rules: &sources.rules,
            known: &sources.known,
            processes: &moment.processes,
            traits: &moment.traits,
            daemons: [own, daemon(self.host, self.config.parents()).unwrap_or(own)],
        }
    }

    /// Where processes belong, and who is elsewhere: of all of them, or `only` of these.
    fn compare(&self, sources: &Sources, moment: &Moment, origins: &mut Origins, only: Option<&HashSet<i32>>) -> Look {
        origins.retain(&moment.processes);
        let mut placement = self.census(sources, moment).place();
        let mut problems = moment.problems.clone();
        problems.extend(sources.problems.iter().cloned());
        problems.append(&mut placement.problems);
        let scene = Scene {
            host: self.host,
            identity: &self.config.cgroup.identity,
            desired: self.desired,
            protected: &self.config.cgroup.policy.protected,
            refused: self.refused,
        };
        let looked_at = only.map_or(Cow::Borrowed(&placement), |pids| Cow::Owned(placement.only(pids)));
        let misplaced = scene.misplaced(&looked_at, origins);
        Look { placement, misplaced, named: moment.claims.len(), problems }
    }

    /// Moves what is misplaced, until a pass finds nothing new.
    pub(crate) fn sync(&self, sources: &Sources, origins: &mut Origins) -> Synced {
        let mut moved = BTreeSet::new();
        let mut faults: Vec<(Move, Fault)> = Vec::new();
        let mut moment = self.moment(sources);
        let mut look = self.compare(sources, &moment, origins, None);
        for _ in 0..PASSES {
            let moves = std::mem::take(&mut look.misplaced.moves);
            if moves.is_empty() {
                break;
            }
            let result = attach::run(self.host, self.config.parents(), &moves);
            origins.left(&moves, &result.done);
            moved.extend(result.done);
            faults.extend(result.faults);
            // Only who was born meanwhile may have been born outside; all others were looked at.
            let born = procs::scan_again(sources.needs, &mut moment.processes, &mut moment.traits);
            let mut before = std::mem::take(&mut look.misplaced.left_alone);
            look = self.compare(sources, &moment, origins, Some(&born));
            before.append(&mut look.misplaced.left_alone);
            look.misplaced.left_alone = before;
        }
        Synced { look, moved: moved.len(), faults, left_units: origins.units() }
    }
}

/// Who could not be looked at in time.
fn in_doubt(traits: &AllTraits) -> Option<String> {
    const SOME: usize = 5;
    let mut pids: Vec<i32> = traits.iter().filter(|(_, t)| t.unknown.any()).map(|(pid, _)| *pid).collect();
    pids.sort_unstable();
    let some: Vec<String> = pids.iter().take(SOME).map(ToString::to_string).collect();
    let more = if pids.len() > SOME { format!(" and {} more", pids.len() - SOME) } else { String::new() };
    (!pids.is_empty()).then(|| {
        format!(
            "pid {}{more}: the program's file or the command line does not answer; where a rule asks for it, the process stays where it is",
            some.join(", ")
        )
    })
}

/// What pid files say, and who runs.
struct Moment {
    claims: Vec<Claim>,
    problems: Vec<String>,
    processes: Processes,
    traits: AllTraits,
}

/// How many processes each group has.
pub(crate) fn counts(placement: &Placement) -> impl Iterator<Item = (&GroupPath, usize)> {
    placement.groups.iter().map(|(path, targets)| (path, targets.len()))
}
