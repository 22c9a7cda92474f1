//! The daemon: starts and stops every task, answers signals. One owner, no globals.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::clock::now;
use crate::confine::Confinement;
use crate::demo::{self, Demo};
use crate::engine::{Engine, EngineError};
use crate::events::{Ears, Journal, News};
use crate::exit::Exit;
use crate::hands::Hands;
use crate::ports::Ports;
use crate::reconcile::Reconciler;
use crate::reload::{self, Secrets};
use crate::serve::Library;
use crate::source::{self, Intake, Origin, last_good};
use crate::state::{self, Change, Keeper, Key};
use crate::status::Board;
use crate::store::redis::Redis;
use crate::store::ring::Ring;
use crate::store::writer;
use crate::{deadline, permission, privileges, sampler, service, term};
use cgrove_config::{Config, SourceKind, StoreKind};
use cgrove_core::event::Kind;

/// Clients are given so long to hear that the daemon stops.
const FAREWELL: Duration = Duration::from_millis(500);
/// A reconcile under way is waited for so long when the daemon stops; then it is left where it is.
const LAST_ROUND: Duration = Duration::from_secs(10);

/// The disk is given so long to take what waits for it when the daemon stops.
const LAST_WRITES: Duration = Duration::from_secs(2);

/// Runs until a signal. HUP starts everything anew with the configuration of then; measurements in memory, open
/// ports and the lock stay. A configuration that cannot be used changes nothing.
pub(crate) async fn run(
    config_path: &Path,
    mut config: Arc<Config>,
    hands: Hands,
    confinement: Confinement,
) -> Result<(), Exit> {
    let failed = |e: std::io::Error| Exit::unavailable(format!("signals: {e}"));
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hup = signal(SignalKind::hangup()).map_err(failed)?;
    deadline::watch().map_err(failed)?;
    let ring = Arc::new(Ring::new(config.usage.keep, config.usage.memory));
    let journal = Arc::new(Journal::new(config.events.keep));
    let started = now();
    permission::check(&config)?;
    let ports = Ports::passed()?;
    config = Arc::new(ports.instead(Config::clone(&config))?);
    let secrets = Secrets::read(&config)?;
    let keeper = open_state(&config).await?;
    ports.begin(&config);
    let engine = hands
        .attempt({
            let (config, keeper) = (config.clone(), keeper.clone());
            move || Engine::new(config, keeper)
        })
        .await??;
    let mut outfit = Outfit { hands, confinement, ring, journal, started, secrets, keeper, before: None };
    // Before anything can happen.
    outfit.journal.tell([News::new(Kind::Started, format!("cgrove {} on {}", env!("CARGO_PKG_VERSION"), config.node))]);
    let mut daemon = Daemon::start(config.clone(), &ports, engine, outfit.clone()).await?;
    if config.demo {
        for line in demo::banner(&config, config_path).lines() {
            term::out(line);
        }
    }
    service::ready();
    loop {
        tokio::select! {
            _ = term.recv() => return daemon.stop().await,
            _ = int.recv() => return daemon.stop().await,
            exit = daemon.ended() => return Err(exit),
            _ = hup.recv() => {}
        }
        service::reloading();
        let before = reload::Before {
            path: config_path.to_owned(),
            config: config.clone(),
            ports: ports.clone(),
            confinement: outfit.confinement.clone(),
            keeper: outfit.keeper.clone(),
        };
        let ready = tokio::select! {
            ready = reload::prepare(before, &outfit.hands) => ready,
            _ = term.recv() => return daemon.stop().await,
            _ = int.recv() => return daemon.stop().await,
            exit = daemon.ended() => return Err(exit),
        };
        let ready = match ready {
            Ok(ready) => ready,
            Err(e) => {
                error!("reload: {}; the configuration stays as it was", e.message);
                service::ready();
                continue;
            }
        };
        info!("reloading");
        let redis = daemon.redis.clone();
        outfit.before = daemon.document.borrow().clone();
        outfit.keeper = ready.keeper;
        carry_over(&mut outfit, &config, &ready.config);
        let mut finish = std::pin::pin!(daemon.finish());
        let old = tokio::select! {
            engine = &mut finish => engine?,
            _ = async { tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} } } => {
                return wind_up(finish, redis, Some(outfit.keeper)).await;
            }
        };
        let new = ready.config;
        outfit.secrets = ready.secrets;
        outfit.ring.resize(new.usage.keep, new.usage.memory);
        outfit.journal.resize(new.events.keep);
        let engine = old.reconfigure(new.clone(), outfit.keeper.clone(), ready.claim);
        ports.change(&new, ready.ports);
        config = new;
        outfit.journal.tell([News::new(Kind::Reloaded, format!("with {} as it is now", config_path.display()))]);
        daemon = Daemon::start(config.clone(), &ports, engine, outfit.clone()).await?;
        service::ready();
    }
}

/// What stays across reloads, and what each daemon starts with.
#[derive(Clone)]
struct Outfit {
    hands: Hands,
    confinement: Confinement,
    ring: Arc<Ring>,
    journal: Arc<Journal>,
    started: u64,
    secrets: Secrets,
    keeper: Keeper,
    /// The document in force when the reload came.
    before: Option<Arc<source::Document>>,
}

/// The state directory, for this process alone. On a thread of its own: a disk may be slow.
async fn open_state(config: &Config) -> Result<Keeper, Exit> {
    let dir = config.tree.state_dir.clone();
    let opened = tokio::task::spawn_blocking(move || Keeper::open(&dir)).await;
    Ok(opened.map_err(|e| Exit::software(format!("the state directory: {e}")))??)
}

/// What is in force stays in force below the same parent, and is kept where the new configuration keeps it. For another
/// parent it was not meant.
fn carry_over(outfit: &mut Outfit, old: &Config, new: &Config) {
    let (was, is) = (Origin::of(old), Origin::of(new));
    outfit.before = outfit.before.take().filter(|_| was.has_parents_of(&is));
    if let Some(before) = outfit.before.as_ref().filter(|_| was.is(&is) && old.tree.state_dir != new.tree.state_dir) {
        outfit.keeper.change(Key::LastGood, Change::Put(last_good::encode(before, &is)));
    }
}

struct Daemon {
    stop: watch::Sender<bool>,
    reconciler: tokio::task::JoinHandle<Result<Option<Engine>, EngineError>>,
    tasks: JoinSet<()>,
    gone: CancellationToken,
    library: Arc<Library>,
    document: watch::Receiver<Option<Arc<source::Document>>>,
    redis: Option<Redis>,
    sampler: Arc<sampler::Handle>,
    keeper: Keeper,
    _demo: Option<Demo>,
}

impl Daemon {
    async fn start(config: Arc<Config>, ports: &Ports, engine: Engine, outfit: Outfit) -> Result<Self, Exit> {
        let Outfit { hands, confinement, ring, journal, started, secrets, keeper, before } = outfit;
        let io = |what: &str, e: std::io::Error| Exit::unavailable(format!("{what}: {e}"));
        let board = Arc::new(Board::new(journal.clone()));
        describe(&board, &config, started, confinement);
        let demo =
            if config.demo { Some(Demo::start(&config.tree.state_dir).map_err(|e| io("demo", e))?) } else { None };

        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let kept = (keeper.clone(), Origin::of(&config));
        let (intake, document) = Intake::new(board.clone(), kept, secrets.demands, before).await;
        tasks.spawn(state::say(keeper.clone(), board.clone()));
        let (news, inbox) = mpsc::channel(16);
        tasks.spawn(intake.run(inbox));
        match config.tree.source {
            SourceKind::ZooKeeper => tasks.spawn(source::zookeeper::run(config.zookeeper.clone(), news)),
            SourceKind::File => tasks.spawn(source::file::run(config.tree.path.clone(), news)),
        };
        let sampler = sampler::start(config.clone(), board.clone(), ring.clone()).map_err(|e| io("sampler", e))?;
        let sampler = Arc::new(sampler);
        tasks.spawn(forward(document.clone(), sampler.clone()));
        let redis = (config.usage.store == StoreKind::Redis).then(|| Redis::new(config.clone()));
        let reader = redis.as_ref().map(Redis::reader);
        if let Some(redis) = redis.clone() {
            tasks.spawn(writer::run(redis, ring.clone(), board.clone()));
        }
        let library =
            Arc::new(Library::new(config.clone(), board.clone(), ring, reader, document.clone(), secrets.proof));
        ports.serve(&config, &library, &mut tasks);
        tasks.spawn(service::run(board.clone()));
        let gone = library.gone.clone();
        let ears = Ears::default();
        tasks.spawn(ears.run(config.clone(), journal, hands.clone()));
        let reconciler = Reconciler::new(config.clone(), board, document.clone(), engine, hands, ears);
        let reconciler = tokio::spawn(reconciler.run(stopped));
        info!(node = config.node, parent = config.parent_shown(), listen = %config.server.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), "cgrove {} runs", env!("CARGO_PKG_VERSION"));
        Ok(Self { stop, reconciler, tasks, gone, library, document, redis, sampler, keeper, _demo: demo })
    }

    /// Resolves only when something ends by itself: the parent belongs to another daemon, or a bug. Dying loudly is
    /// better than going on without a part.
    async fn ended(&mut self) -> Exit {
        let mut pulse = tokio::time::interval(Duration::from_secs(5));
        loop {
            tokio::select! {
                result = &mut self.reconciler => return match result {
                    Ok(Err(e)) => e.into(),
                    Ok(Ok(_)) => Exit::software("the reconciler ended".into()),
                    Err(e) => Exit::bug("the reconciler", e),
                },
                Some(result) = self.tasks.join_next() => {
                    return match result {
                        Ok(()) => Exit::software("a task ended by itself".into()),
                        Err(e) => Exit::bug("a task", e),
                    };
                }
                _ = pulse.tick() => if self.sampler.is_dead() {
                    return Exit::software("the sampler died".into());
                },
            }
        }
    }

    /// Ends every task and client, and gives the engine back. A reconcile under way is finished, not cut.
    async fn finish(mut self) -> Result<Engine, Exit> {
        let _ = self.stop.send(true);
        let result = (&mut self.reconciler).await;
        // First nobody is let in any more: who comes now waits for the next daemon instead of being cut off.
        self.tasks.shutdown().await;
        self.gone.cancel();
        match result.map_err(|e| Exit::bug("the reconciler", e))?? {
            Some(engine) => Ok(engine),
            None => Err(Exit::software("the reconciler lost its engine".into())),
        }
    }

    /// Ends everything; the groups stay as they are.
    async fn stop(self) -> Result<(), Exit> {
        let (redis, keeper, library) = (self.redis.clone(), self.keeper.clone(), self.library.clone());
        wind_up(self.finish(), redis, Some(keeper)).await?;
        // They are told why; whoever does not listen is not waited for.
        let left = async {
            while !library.crowd.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = tokio::time::timeout(FAREWELL, left).await;
        Ok(())
    }
}

/// Waits for the last reconcile, within reason, and gives the prefix in Redis up.
async fn wind_up(
    finish: impl Future<Output = Result<Engine, Exit>>,
    redis: Option<Redis>,
    keeper: Option<Keeper>,
) -> Result<(), Exit> {
    service::stopping();
    let mut ended = Ok(());
    match tokio::time::timeout(LAST_ROUND, finish).await {
        // A bug in the last round is a bug.
        Ok(engine) => ended = engine.map(drop),
        Err(_) => warn!("a reconcile did not end within {} s; it is left where it is", LAST_ROUND.as_secs()),
    }
    if let Some(redis) = redis {
        let _ = tokio::time::timeout(Duration::from_secs(1), redis.release()).await;
    }
    if let Some(keeper) = keeper {
        let settled = tokio::task::spawn_blocking(move || keeper.settle(LAST_WRITES)).await;
        if settled.is_ok_and(|s| !s.pending.is_empty()) {
            warn!("state: the disk has not taken everything");
        }
    }
    info!("stopped; the groups stay");
    ended
}

/// The sampler measures what is in force.
async fn forward(mut document: watch::Receiver<Option<Arc<source::Document>>>, sampler: Arc<sampler::Handle>) {
    loop {
        if let Some(document) = document.borrow_and_update().clone() {
            sampler.measure(document);
        }
        if document.changed().await.is_err() {
            return;
        }
    }
}

fn describe(board: &Board, config: &Config, started: u64, confinement: Confinement) {
    board.update(|s| {
        s.node.clone_from(&config.node);
        s.version = env!("CARGO_PKG_VERSION");
        s.pid = std::process::id();
        s.capabilities = privileges::left();
        s.landlock = confinement;
        s.started = started;
        (s.source.kind, s.source.place) = match config.tree.source {
            SourceKind::ZooKeeper => ("zookeeper", source::zookeeper::place(&config.zookeeper)),
            SourceKind::File => ("file", config.tree.path.display().to_string()),
        };
        s.store.kind = match config.usage.store {
            StoreKind::Memory => "memory",
            StoreKind::Redis => "redis",
        };
        s.store.connected = config.usage.store == StoreKind::Memory;
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bug_in_the_last_round_is_no_success_and_a_round_without_end_is_left() {
        let bug = wind_up(async { Err(Exit::software("a bug".into())) }, None, None).await;
        assert_eq!(bug.unwrap_err().code, 70);
        let start = tokio::time::Instant::now();
        assert!(wind_up(std::future::pending(), None, None).await.is_ok());
        assert!(start.elapsed() < Duration::from_secs(12));
    }
}
