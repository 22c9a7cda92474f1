//! The daemon: starts and stops every task, answers signals. One owner, no globals.

use std::path::Path;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::config::{self, Config, SourceKind, StoreKind};
use crate::demo::{self, Demo};
use crate::engine::{Engine, EngineError};
use crate::exit::Exit;
use crate::reconcile::Reconciler;
use crate::serve::{self, Library};
use crate::source::{self, Intake};
use crate::status::{Board, now};
use crate::store::redis::{self, Redis};
use crate::store::ring::Ring;
use crate::{permission, sampler, term};

/// Runs until a signal. HUP starts everything anew with the configuration of then; measurements in memory stay.
pub(crate) async fn run(config_path: &Path) -> Result<(), Exit> {
    let mut config = Arc::new(config::load(config_path, std::env::vars())?);
    let failed = |e: std::io::Error| Exit::unavailable(format!("signals: {e}"));
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hup = signal(SignalKind::hangup()).map_err(failed)?;
    let ring = Arc::new(Ring::new(config.usage.keep, config.usage.memory));
    let started = now();
    loop {
        ring.resize(config.usage.keep, config.usage.memory);
        let mut daemon = Daemon::start(config.clone(), ring.clone(), started).await?;
        if config.demo {
            term::out(&demo::banner(&config, config_path));
        }
        config = loop {
            tokio::select! {
                _ = term.recv() => return daemon.stop().await,
                _ = int.recv() => return daemon.stop().await,
                result = daemon.ended() => return Err(result),
                _ = hup.recv() => match config::load(config_path, std::env::vars()) {
                    Ok(new) => break Arc::new(new),
                    Err(e) => error!("reload: {e}; the configuration stays as it was"),
                },
            }
        };
        info!("reloading");
        daemon.stop().await?;
    }
}

struct Daemon {
    stop: watch::Sender<bool>,
    reconciler: tokio::task::JoinHandle<Result<(), EngineError>>,
    tasks: JoinSet<()>,
    sampler: Arc<sampler::Handle>,
    _demo: Option<Demo>,
}

impl Daemon {
    async fn start(config: Arc<Config>, ring: Arc<Ring>, started: u64) -> Result<Self, Exit> {
        permission::check(&config)?;
        let board = Arc::new(Board::default());
        describe(&board, &config, started);
        // The port first: whoever asks early is told what is missing.
        let mut listeners = Vec::new();
        for address in &config.server.listen {
            let opened = serve::listen(*address).and_then(tokio::net::TcpListener::from_std);
            listeners.push(
                opened.map_err(|e| {
                    Exit::unavailable(format!("server.listen {address}: {e}; is another cgrove running?"))
                })?,
            );
        }
        let engine_config = config.clone();
        let engine = tokio::task::spawn_blocking(move || Engine::new(engine_config)).await;
        let engine = engine.map_err(|e| Exit::unavailable(e.to_string()))?.map_err(Exit::from)?;
        let demo = if config.demo {
            Some(Demo::start(&config.tree.state_dir).map_err(|e| Exit::unavailable(format!("demo: {e}")))?)
        } else {
            None
        };

        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let (intake, document) = Intake::new(board.clone(), config.tree.state_dir.clone());
        let (news, inbox) = mpsc::channel(16);
        tasks.spawn(intake.run(inbox));
        match config.tree.source {
            SourceKind::ZooKeeper => tasks.spawn(source::zookeeper::run(config.zookeeper.clone(), news)),
            SourceKind::File => tasks.spawn(source::file::run(config.tree.path.clone(), news)),
        };
        let sampler = sampler::start(config.clone(), board.clone(), ring.clone())
            .map_err(|e| Exit::unavailable(format!("sampler: {e}")))?;
        let sampler = Arc::new(sampler);
        tasks.spawn(forward(document.clone(), sampler.clone()));
        let redis = (config.usage.store == StoreKind::Redis).then(|| Redis::new(config.clone()));
        if let Some(redis) = &redis {
            tasks.spawn(redis::run(redis.clone(), ring.clone(), board.clone()));
        }
        let connections = Arc::new(Semaphore::new(config.server.max_connections));
        let library = Arc::new(Library::new(config.clone(), board.clone(), ring, redis, document.clone()));
        for listener in listeners {
            tasks.spawn(serve::run(listener, library.clone(), connections.clone()));
        }
        let reconciler = Reconciler::new(config.clone(), board, document, engine);
        let reconciler = tokio::spawn(reconciler.run(stopped));
        info!(node = config.node, parent = %config.parent(), listen = ?config.server.listen, "cgrove {} runs", env!("CARGO_PKG_VERSION"));
        Ok(Self { stop, reconciler, tasks, sampler, _demo: demo })
    }

    /// Resolves only when the reconciler ends by itself: the parent belongs to another daemon, or a bug.
    async fn ended(&mut self) -> Exit {
        match (&mut self.reconciler).await {
            Ok(Err(e)) => e.into(),
            Ok(Ok(())) => Exit::unavailable("the reconciler ended".into()),
            Err(e) => Exit::software(format!("the reconciler died: {e}")),
        }
    }

    /// Ends every task; the groups stay as they are.
    async fn stop(mut self) -> Result<(), Exit> {
        let _ = self.stop.send(true);
        // A reconcile under way is finished, not cut: it is short, and bounded.
        if tokio::time::timeout(std::time::Duration::from_secs(20), &mut self.reconciler).await.is_err() {
            warn!("a reconcile did not end in time");
            self.reconciler.abort();
        }
        self.tasks.shutdown().await;
        drop(self.sampler);
        info!("stopped; the groups stay");
        Ok(())
    }
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

fn describe(board: &Board, config: &Config, started: u64) {
    board.update(|s| {
        s.node.clone_from(&config.node);
        s.version = env!("CARGO_PKG_VERSION");
        s.pid = std::process::id();
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
