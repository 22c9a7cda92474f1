//! The daemon: starts and stops every task, answers signals. One owner, no globals.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};
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
use crate::reconcile::Reconciler;
use crate::serve::{self, Library, Port, Proof};
use crate::source::{self, Demands, Intake};
use crate::status::Board;
use crate::store::redis::Redis;
use crate::store::ring::Ring;
use crate::store::writer;
use crate::{permission, privileges, sampler, service, term};
use cgrove_config::{self as config, Address, Config, SourceKind, StoreKind};
use cgrove_core::event::Kind;

/// The ports that are open, kept across reloads so that nobody is refused meanwhile.
type Ports = BTreeMap<Address, Port>;

/// Clients are given so long to hear that the daemon stops.
const FAREWELL: Duration = Duration::from_millis(500);

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
    let ring = Arc::new(Ring::new(config.usage.keep, config.usage.memory));
    let journal = Arc::new(Journal::new(config.events.keep));
    let started = now();
    permission::check(&config)?;
    let mut ports = Ports::new();
    let passed = take_passed(&mut ports)?;
    config = Arc::new(with_passed(Config::clone(&config), &passed)?);
    open_ports(&mut ports, &config)?;
    let secrets = Secrets::read(&config)?;
    let engine = hands
        .run({
            let config = config.clone();
            move || Engine::new(config)
        })
        .await?;
    let mut outfit = Outfit { hands, confinement, ring, journal, started, secrets, before: None };
    // Before anything can happen.
    outfit.journal.tell([News::new(Kind::Started, format!("cgrove {} on {}", env!("CARGO_PKG_VERSION"), config.node))]);
    let mut daemon = Daemon::start(config.clone(), &ports, engine, outfit.clone())?;
    if config.demo {
        term::out(&demo::banner(&config, config_path));
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
        let new = match prepare_reload(config_path, &mut ports, &passed, &outfit.confinement) {
            Ok((new, read)) => {
                outfit.secrets = read;
                Arc::new(new)
            }
            Err(e) => {
                error!("reload: {}; the configuration stays as it was", e.message);
                service::ready();
                continue;
            }
        };
        info!("reloading");
        let redis = daemon.redis.clone();
        outfit.before = daemon.document.borrow().clone();
        let mut finish = std::pin::pin!(daemon.finish());
        let old = tokio::select! {
            engine = &mut finish => engine?,
            _ = async { tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} } } => {
                return wind_up(finish, redis).await;
            }
        };
        outfit.ring.resize(new.usage.keep, new.usage.memory);
        outfit.journal.resize(new.events.keep);
        let engine = outfit
            .hands
            .run({
                let new = new.clone();
                move || old.reconfigure(new)
            })
            .await?;
        ports.retain(|address, _| new.server.listen.contains(address));
        config = new;
        outfit.journal.tell([News::new(Kind::Reloaded, format!("with {} as it is now", config_path.display()))]);
        daemon = Daemon::start(config.clone(), &ports, engine, outfit.clone())?;
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
    /// The document in force when the reload came.
    before: Option<Arc<source::Document>>,
}

/// What files beside the configuration hold: keys, tokens, certificates.
#[derive(Clone)]
struct Secrets {
    proof: Proof,
    demands: Demands,
}

impl Secrets {
    fn read(config: &Config) -> Result<Self, Exit> {
        let proof = Proof::read(config).map_err(Exit::config)?;
        Ok(Self { proof, demands: Demands::read(config).map_err(Exit::config)? })
    }
}

/// Everything that may go wrong with a new configuration, tried before the old one ends.
fn prepare_reload(
    config_path: &Path,
    ports: &mut Ports,
    passed: &[Address],
    confinement: &Confinement,
) -> Result<(Config, Secrets), Exit> {
    let config = config::load(config_path, config::environment())?;
    confinement.allows(&config).map_err(Exit::config)?;
    let config = with_passed(config, passed)?;
    permission::check(&config)?;
    let secrets = Secrets::read(&config)?;
    open_ports(ports, &config)?;
    Ok((config, secrets))
}

/// Ports that systemd opened for us stay ours for good.
fn take_passed(ports: &mut Ports) -> Result<Vec<Address>, Exit> {
    let mut passed = Vec::new();
    for listener in service::sockets()? {
        let address = listener.address().map_err(|e| Exit::unavailable(e.to_string()))?;
        passed.push(address.clone());
        ports.insert(address, listener);
    }
    Ok(passed)
}

/// Passed sockets take the place of `server.listen`; who may reach them is checked as for any other.
fn with_passed(mut config: Config, passed: &[Address]) -> Result<Config, Exit> {
    if !passed.is_empty() {
        config.server.listen = passed.to_vec();
        config::check_reach(&config.server)
            .map_err(|why| Exit::config(format!("the socket that systemd passed: {why}")))?;
    }
    Ok(config)
}

/// Opens what is not open yet. The port comes first: whoever asks early is told what is missing.
fn open_ports(ports: &mut Ports, config: &Config) -> Result<(), Exit> {
    for address in &config.server.listen {
        if !ports.contains_key(address) {
            let port = Port::open(address)
                .map_err(|e| Exit::unavailable(format!("server.listen {address}: {e}; is another cgrove running?")))?;
            ports.insert(address.clone(), port);
        }
    }
    Ok(())
}

struct Daemon {
    stop: watch::Sender<bool>,
    reconciler: tokio::task::JoinHandle<Result<Option<Engine>, EngineError>>,
    tasks: JoinSet<()>,
    gone: CancellationToken,
    /// All are free when every client has left.
    connections: (Arc<Semaphore>, usize),
    document: watch::Receiver<Option<Arc<source::Document>>>,
    redis: Option<Redis>,
    sampler: Arc<sampler::Handle>,
    _demo: Option<Demo>,
}

impl Daemon {
    fn start(config: Arc<Config>, ports: &Ports, engine: Engine, outfit: Outfit) -> Result<Self, Exit> {
        let Outfit { hands, confinement, ring, journal, started, secrets, before } = outfit;
        let io = |what: &str, e: std::io::Error| Exit::unavailable(format!("{what}: {e}"));
        let board = Arc::new(Board::new(journal.clone()));
        describe(&board, &config, started, confinement);
        let demo =
            if config.demo { Some(Demo::start(&config.tree.state_dir).map_err(|e| io("demo", e))?) } else { None };

        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let (intake, document) = Intake::new(board.clone(), config.tree.state_dir.clone(), secrets.demands, before);
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
        let connections = Arc::new(Semaphore::new(config.server.max_connections));
        let library =
            Arc::new(Library::new(config.clone(), board.clone(), ring, reader, document.clone(), secrets.proof));
        for address in &config.server.listen {
            if let Some(port) = ports.get(address) {
                let listener = port.listener().map_err(|e| io("server.listen", e))?;
                tasks.spawn(serve::run(listener, library.clone(), connections.clone()));
            }
        }
        let connections = (connections, config.server.max_connections);
        tasks.spawn(service::run(board.clone()));
        let gone = library.gone.clone();
        let ears = Ears::default();
        tasks.spawn(ears.run(config.clone(), journal, hands.clone()));
        let reconciler = Reconciler::new(config.clone(), board, document.clone(), engine, hands, ears);
        let reconciler = tokio::spawn(reconciler.run(stopped));
        info!(node = config.node, parent = config.parent_shown(), listen = %config.server.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), "cgrove {} runs", env!("CARGO_PKG_VERSION"));
        Ok(Self { stop, reconciler, tasks, gone, connections, document, redis, sampler, _demo: demo })
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
                    Err(e) => Exit::software(format!("the reconciler died: {e}")),
                },
                Some(result) = self.tasks.join_next() => {
                    return Exit::software(format!("a task ended: {}", result.err().map_or("by itself".into(), |e| e.to_string())));
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
        match result.map_err(|e| Exit::software(e.to_string()))?? {
            Some(engine) => Ok(engine),
            None => Err(Exit::software("the reconciler lost its engine".into())),
        }
    }

    /// Ends everything; the groups stay as they are.
    async fn stop(self) -> Result<(), Exit> {
        let (redis, (connections, all)) = (self.redis.clone(), self.connections.clone());
        wind_up(self.finish(), redis).await?;
        // They are told why; whoever does not listen is not waited for.
        let left = connections.acquire_many(u32::try_from(all).unwrap_or(u32::MAX));
        let _ = tokio::time::timeout(FAREWELL, left).await;
        Ok(())
    }
}

/// Waits for the last reconcile, within reason, and gives the prefix in Redis up.
async fn wind_up(finish: impl Future<Output = Result<Engine, Exit>>, redis: Option<Redis>) -> Result<(), Exit> {
    service::stopping();
    if tokio::time::timeout(Duration::from_secs(20), finish).await.is_err() {
        warn!("a reconcile did not end in time");
    }
    if let Some(redis) = redis {
        let _ = tokio::time::timeout(Duration::from_secs(1), redis.release()).await;
    }
    info!("stopped; the groups stay");
    Ok(())
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
        s.server.listen = config.server.listen.iter().map(ToString::to_string).collect();
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
