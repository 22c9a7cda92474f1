//! The addresses that we listen on. They stay open across reloads, so that nobody is refused meanwhile. One that cannot be
//! opened, because somebody else holds it, keeps the daemon from nothing else: it is tried again.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::exit::Exit;
use crate::serve::{self, For, Library, Listener, Port};
use crate::service;
use crate::status::Board;
use cgrove_config::{self as config, Address, Config};
use cgrove_state::StateDir;

/// Pauses between attempts to open an address; the last one stays.
const PAUSES: [u64; 5] = [1, 2, 5, 10, 30];

/// Root's own socket: no setting can take it away, and nobody else can reach it.
pub(crate) fn roots_own(config: &Config) -> PathBuf {
    config.tree.state_dir.join("cgrove.sock")
}

/// Where this configuration listens, root's own socket last.
fn addresses(config: &Config) -> Vec<Address> {
    let mut out = config.server.listen.clone();
    let own = Address::Unix(roots_own(config));
    if !out.contains(&own) {
        out.push(own);
    }
    out
}

fn open(config: &Config, address: &Address) -> std::io::Result<Port> {
    let own = *address == Address::Unix(roots_own(config));
    if own {
        StateDir::new(&config.tree.state_dir).prepare().map_err(std::io::Error::other)?;
    }
    Port::open(address, if own { For::Root } else { For::Group })
}

type Open = BTreeMap<Address, Port>;

/// What is open.
#[derive(Clone, Default)]
pub(crate) struct Ports {
    open: Arc<Mutex<Open>>,
    /// What systemd opened for us stays ours for good, and takes the place of `server.listen`.
    passed: Vec<Address>,
}

/// Ports for another configuration, opened but not used yet; closed again when dropped.
pub(crate) struct Fresh(Open);

impl Ports {
    pub(crate) fn passed() -> Result<Self, Exit> {
        let mut ports = Self::default();
        for listener in service::sockets()? {
            let address = listener.address().map_err(|e| Exit::unavailable(e.to_string()))?;
            ports.passed.push(address.clone());
            ports.open().insert(address, listener);
        }
        Ok(ports)
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passed sockets take the place of `server.listen`; who may reach them is checked as for any other.
    pub(crate) fn instead(&self, mut config: Config) -> Result<Config, Exit> {
        if !self.passed.is_empty() {
            config.server.listen = self.passed.clone();
            config::check_reach(&config.server)
                .map_err(|why| Exit::config(format!("the socket that systemd passed: {why}")))?;
        }
        Ok(config)
    }

    /// Opens what it can. The port comes first: whoever asks early is told what is missing.
    pub(crate) fn begin(&self, config: &Config) {
        for address in addresses(config) {
            if let Entry::Vacant(place) = self.open().entry(address) {
                match open(config, place.key()) {
                    Ok(port) => drop(place.insert(port)),
                    Err(e) => warn!("{}", sorry(place.key(), &e)),
                }
            }
        }
    }

    /// Opens what `new` has and `old` had not. All of it or nothing.
    pub(crate) fn prepare(&self, old: &Config, new: &Config) -> Result<Fresh, Exit> {
        let mut fresh = Fresh(Open::new());
        let known = addresses(old);
        for address in addresses(new).into_iter().filter(|a| !known.contains(a)) {
            if !self.open().contains_key(&address) {
                let port = open(new, &address)
                    .map_err(|e| Exit::unavailable(format!("server.listen {address}: {}", why(&e))))?;
                fresh.0.insert(address, port);
            }
        }
        Ok(fresh)
    }

    /// From now on these, and those of before that are still wanted.
    pub(crate) fn change(&self, config: &Config, fresh: Fresh) {
        let wanted = addresses(config);
        let mut open = self.open();
        open.extend(fresh.0);
        open.retain(|address, _| wanted.contains(address));
    }

    /// Lets clients in, now or as soon as an address can be had.
    pub(crate) fn serve(&self, config: &Arc<Config>, library: &Arc<Library>, tasks: &mut JoinSet<()>) {
        for address in addresses(config) {
            let keeper = Keeper { ports: self.clone(), config: config.clone(), address, library: library.clone() };
            tasks.spawn(keeper.run());
        }
    }
}

/// One address.
struct Keeper {
    ports: Ports,
    config: Arc<Config>,
    address: Address,
    library: Arc<Library>,
}

impl Keeper {
    async fn run(self) {
        let mut pauses = PAUSES.into_iter();
        let mut pause = Duration::from_secs(1);
        let mut failed = false;
        let listener = loop {
            match self.listener() {
                Ok(listener) => break listener,
                Err(e) => {
                    let text = sorry(&self.address, &e);
                    debug!("{text}");
                    self.say(Some(text));
                    failed = true;
                }
            }
            pause = pauses.next().map_or(pause, Duration::from_secs);
            tokio::time::sleep(pause).await;
        };
        self.say(None);
        if failed {
            info!("server.listen {}: open now", self.address);
        }
        serve::run(listener, self.library).await;
    }

    fn listener(&self) -> std::io::Result<Listener> {
        let mut ports = self.ports.open();
        if let Some(port) = ports.get(&self.address) {
            return port.listener();
        }
        let port = open(&self.config, &self.address)?;
        let listener = port.listener()?;
        ports.insert(self.address.clone(), port);
        Ok(listener)
    }

    fn say(&self, error: Option<String>) {
        let address = self.address.to_string();
        let own = self.address == Address::Unix(roots_own(&self.config));
        let board: &Board = &self.library.board;
        board.update(|s| {
            let server = &mut s.server;
            let of_this = format!("server.listen {address}: ");
            server.errors.retain(|e| !e.starts_with(&of_this));
            match error {
                Some(error) => server.errors.push(error),
                None if own => server.socket = Some(address),
                None => server.listen.push(address),
            }
        });
    }
}

fn sorry(address: &Address, error: &std::io::Error) -> String {
    format!("server.listen {address}: {}; it is tried again, groups are managed all the same", why(error))
}

fn why(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => format!("{error}; is another cgrove running? `ss -ltnp` shows who holds it"),
        std::io::ErrorKind::AddrNotAvailable => format!("{error}; no interface has it now"),
        _ => error.to_string(),
    }
}
