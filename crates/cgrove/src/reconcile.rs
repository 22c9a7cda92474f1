//! When to reconcile. One at a time; the latest document wins; nobody waits for it.

mod backoff;
mod known;
mod record;

use std::sync::Arc;
use std::time::Duration;

use cgrove_cgroupfs::events::ProcEvents;
use cgrove_cgroupfs::lock::LockError;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use self::backoff::Backoff;
use self::known::{Known, Lines};
use crate::clock::now;
use crate::engine::{Engine, EngineError};
use crate::events::Ears;
use crate::hands::Hands;
use crate::hints::{DirWatch, Ready};
use crate::memory;
use crate::progress::Progress;
use crate::pulse::Pulse;
use crate::source::Document;
use crate::state::Report;
use crate::status::Board;
use crate::tasks;
use cgrove_config::Config;

/// Drift is read again at most this often.
const CALM: Duration = Duration::from_secs(1);
/// Directories of pid files can be busy; processes are looked at no more often than this.
const PID_FILES_CALM: Duration = Duration::from_millis(200);
/// So soon after one look another one follows, when a new process asks for it.
const EVENTS_CALM: Duration = Duration::from_millis(50);
/// The same where so much happens that not each process is looked at by itself.
const LOST_CALM: Duration = Duration::from_secs(1);
/// When inotify cannot watch everything, we look this often.
const POLL: Duration = Duration::from_secs(5);
/// With nothing to do the loop shows this often that it is alive.
const QUIET: Duration = Duration::from_secs(5);
/// No round as a whole goes on for longer without an action. Single operations are watched more closely (`pulse`).
const LONGEST: Duration = Duration::from_secs(600);
/// So long after a round its memory is given back: a document's first round is followed by others.
const TRIM: Duration = Duration::from_secs(5);
/// Most new lines in the log, and new events, of one kind at a time.
const MOST_LINES: usize = 100;

/// Everything that wakes the reconciler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// A new document is in force.
    Document,
    /// Someone touched the tree.
    Drift,
    /// Time to verify knobs, to retry failures, or to poll.
    Resync,
    /// Time to verify membership, or a pid file changed.
    Tasks,
    /// An approval appeared.
    Approval,
    /// The state directory has taken what removals waited for.
    State,
    Stop,
}

/// The loop's state.
pub(crate) struct Reconciler {
    config: Arc<Config>,
    board: Arc<Board>,
    document: watch::Receiver<Option<Arc<Document>>>,
    engine: Option<Engine>,
    hands: Hands,
    /// Who listens to the kernel's announcements.
    ears: Ears,
    pid_dirs: Option<DirWatch>,
    approvals: Option<DirWatch>,
    /// How the state directory does, and whether removals wait for it.
    state: watch::Receiver<Report>,
    waits_for_state: bool,
    /// Processes that have just begun another program (`tasks.proc_events`).
    proc_events: Option<(ProcEvents, Ready)>,
    /// The next look at processes was asked for by such an event.
    prompted: bool,
    next_tasks: Instant,
    last_tasks: Instant,
    next_resync: Instant,
    last_look: Instant,
    trim_at: Option<Instant>,
    dirty: bool,
    backoff: Backoff,
    known_failures: Known,
    known_held: Known,
    known_units: Known,
    /// Moves that were refused at the last look, by pid, start time and error.
    known_refusals: Known,
    lines: Lines,
    failed_lines: Lines,
    pulse: Pulse,
}

impl Reconciler {
    pub(crate) fn new(
        config: Arc<Config>,
        board: Arc<Board>,
        document: watch::Receiver<Option<Arc<Document>>>,
        mut engine: Engine,
        hands: Hands,
        ears: Ears,
    ) -> Self {
        let pulse = board.pulses.of("reconciler", LONGEST);
        board.pulses.watch_worker(hands.doing());
        engine.pulse = Some(pulse.clone());
        let told = board.clone();
        engine.progress = Some(Progress::new(move |done, total| {
            let text = format!("{done} of {total} actions done");
            info!("reconciling: {text}");
            told.update(|s| s.plan.progress = Some(text));
        }));
        let now = Instant::now();
        let keeper = engine.keeper();
        let state = keeper.watch();
        Self {
            engine: Some(engine),
            hands,
            ears,
            pid_dirs: DirWatch::new().ok(),
            approvals: DirWatch::new().ok(),
            state,
            waits_for_state: false,
            proc_events: listen(&config),
            prompted: false,
            next_tasks: now,
            last_tasks: now,
            next_resync: now + config.cgroup.resync,
            last_look: now.checked_sub(CALM).unwrap_or(now),
            trim_at: None,
            dirty: false,
            backoff: Backoff::default(),
            known_failures: Known::default(),
            known_held: Known::default(),
            known_units: Known::default(),
            known_refusals: Known::default(),
            lines: Lines::default(),
            failed_lines: Lines::default(),
            pulse,
            config,
            board,
            document,
        }
    }

    /// Runs until `stop`, and gives the engine back with its lock. An error means that the parent is not ours.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<Option<Engine>, EngineError> {
        if let Some(watch) = &mut self.approvals {
            watch.set(self.engine.as_ref().map(|engine| engine.keeper().approvals_dir().to_owned())).await;
        }
        if self.document.borrow_and_update().is_some() {
            self.round(Event::Document).await?;
        }
        loop {
            let event = self.next(&mut stop).await;
            match event {
                Event::Stop => return Ok(self.engine),
                Event::Tasks => self.tasks().await?,
                event => self.round(event).await?,
            }
        }
    }

    /// Waits for the next thing to do.
    async fn next(&mut self, stop: &mut watch::Receiver<bool>) -> Event {
        loop {
            self.pulse.beat();
            let calm = self.last_look + CALM;
            let resync =
                if self.ears.drift.is_blind() { self.next_resync.min(self.last_look + POLL) } else { self.next_resync };
            tokio::select! {
                biased;
                _ = stop.changed() => return Event::Stop,
                changed = self.document.changed() => return if changed.is_ok() { Event::Document } else { Event::Stop },
                () = fired(&mut self.approvals) => return Event::Approval,
                () = clean(&mut self.state), if self.waits_for_state => return Event::State,
                () = fired(&mut self.pid_dirs) => self.next_tasks = self.next_tasks.min(self.last_tasks + PID_FILES_CALM),
                () = tokio::time::sleep_until(calm), if self.dirty => return Event::Drift,
                () = self.ears.drift.wait() => self.dirty = true,
                () = tokio::time::sleep_until(self.next_tasks) => return Event::Tasks,
                () = tokio::time::sleep_until(resync) => return Event::Resync,
                () = due(self.trim_at) => {
                    memory::give_back();
                    self.trim_at = None;
                }
                // Last: whoever begins programs without end must not keep us from all else.
                // Judged outside of the race: what was taken from the kernel is told once.
                pids = begun(&mut self.proc_events) => {
                    let calm = if pids.is_some() { EVENTS_CALM } else { LOST_CALM };
                    if self.concerned(pids).await {
                        self.prompted = true;
                        self.next_tasks = self.next_tasks.min(self.last_tasks + calm);
                    }
                },
                () = tokio::time::sleep(QUIET) => {}
            }
        }
    }

    /// May a rule concern any of these processes?
    async fn concerned(&self, pids: Option<Vec<i32>>) -> bool {
        let Some(sources) = self.engine.as_ref().and_then(|e| e.sources.as_ref()) else { return false };
        // Some were lost: whatever they were.
        let Some(pids) = pids else { return true };
        let needs = sources.needs();
        let seen = self.hands.run(move || tasks::look_at(&pids, needs)).await;
        seen.iter().any(|(process, traits)| sources.concern(process, traits))
    }

    /// Lends the engine to the hands. Work that panicked never gave it back: nothing goes on without.
    async fn by_hands<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Engine) -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        let mut engine = self.engine.take().ok_or(EngineError::Lost)?;
        let (engine, result) = self
            .hands
            .run(move || {
                let result = work(&mut engine);
                (engine, result)
            })
            .await;
        self.engine = Some(engine);
        Ok(result)
    }

    /// A whole reconcile.
    async fn round(&mut self, event: Event) -> Result<(), EngineError> {
        let Some(document) = self.document.borrow_and_update().clone() else {
            self.next_resync = Instant::now() + self.config.cgroup.resync;
            return Ok(());
        };
        self.dirty = false;
        self.backoff.hear(event);
        let previous = document.previous.clone();
        let desired = document.desired.clone();
        self.watch_pid_files(&document).await?;
        let work = move |engine: &mut Engine| engine.reconcile(&desired, previous);
        let began = Instant::now();
        let result = self.by_hands(work).await?;
        self.last_look = Instant::now();
        self.board.timings.reconcile.observe(began.elapsed().as_secs_f64());
        match result {
            Ok(round) => {
                self.waits_for_state = round.waits_for_state;
                self.record(event, round);
                self.trim_at.get_or_insert_with(|| Instant::now() + TRIM);
            }
            Err(EngineError::Fault(fault) | EngineError::Lock(LockError::Fault(fault))) => {
                warn!("reconcile: {fault}");
                self.board.update(|s| {
                    (s.plan.error, s.plan.progress) = (Some(fault.to_string()), None);
                    s.plan.at = now();
                });
                self.schedule(true);
            }
            Err(e @ (EngineError::Lock(_) | EngineError::Lost)) => return Err(e),
        }
        Ok(())
    }

    async fn tasks(&mut self) -> Result<(), EngineError> {
        self.last_tasks = Instant::now();
        self.next_tasks = self.last_tasks + self.config.tasks.interval;
        let Some(document) = self.document.borrow().clone() else { return Ok(()) };
        let desired = document.desired.clone();
        self.watch_pid_files(&document).await?;
        let prompted = std::mem::take(&mut self.prompted);
        let work = move |engine: &mut Engine| engine.sync_tasks(&desired, prompted);
        let result = self.by_hands(work).await?;
        match result {
            Ok(synced) => self.record_tasks(&synced),
            Err(e) => warn!("tasks: {e}"),
        }
        Ok(())
    }

    /// Before the look, so that nothing written in between is missed.
    async fn watch_pid_files(&mut self, document: &Document) -> Result<(), EngineError> {
        let desired = document.desired.clone();
        let dirs = self.by_hands(move |engine| engine.pid_directories(&desired)).await?;
        if let Some(watch) = &mut self.pid_dirs {
            watch.set(dirs).await;
        }
        Ok(())
    }

    /// When to look again without a hint.
    fn schedule(&mut self, failed: bool) {
        let pause = self.backoff.pause(failed, self.config.cgroup.resync);
        self.next_resync = Instant::now() + pause;
    }
}

/// The kernel's process events, where they are wanted and can be had.
fn listen(config: &Config) -> Option<(ProcEvents, Ready)> {
    if !config.tasks.proc_events {
        return None;
    }
    let events = ProcEvents::new().map_err(|e| {
        warn!(
            "tasks.proc_events: {e}; new processes wait for tasks.interval (CAP_NET_ADMIN and AF_NETLINK are needed: docs/service.md)"
        );
    });
    let events = events.ok()?;
    let ready = Ready::new(&events).ok()?;
    Some((events, ready))
}

/// Waits for processes that have just begun a program; `None` when some were lost.
async fn begun(events: &mut Option<(ProcEvents, Ready)>) -> Option<Vec<i32>> {
    let Some((events, ready)) = events else { return std::future::pending().await };
    if events.more() {
        return events.drain();
    }
    ready.take(|| events.drain()).await
}

/// Waits until the disk has taken everything.
async fn clean(state: &mut watch::Receiver<Report>) {
    if state.wait_for(Report::is_clean).await.is_err() {
        std::future::pending().await
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn fired(watch: &mut Option<DirWatch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}
