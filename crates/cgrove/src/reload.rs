//! A reload: everything that another configuration needs is tried before anything of the present one is given up.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::confine::Confinement;
use crate::engine::{Claim, Engine};
use crate::exit::Exit;
use crate::hands::Hands;
use crate::ports::{Fresh, Ports};
use crate::serve::Proof;
use crate::source::Demands;
use crate::state::Keeper;
use crate::{permission, privileges};
use cgrove_config::{self as config, Config};

/// Reading the configuration and the files that it names takes no longer.
const LONGEST: Duration = Duration::from_secs(30);

/// What files beside the configuration hold: keys, tokens, certificates.
#[derive(Clone)]
pub(crate) struct Secrets {
    pub(crate) proof: Proof,
    pub(crate) demands: Demands,
}

impl Secrets {
    pub(crate) fn read(config: &Config) -> Result<Self, Exit> {
        let proof = Proof::read(config).map_err(Exit::config)?;
        Ok(Self { proof, demands: Demands::read(config).map_err(Exit::config)? })
    }
}

/// What a reload starts from.
pub(crate) struct Before {
    pub(crate) path: PathBuf,
    pub(crate) config: Arc<Config>,
    pub(crate) ports: Ports,
    pub(crate) confinement: Confinement,
    pub(crate) keeper: Keeper,
}

/// All that it needs, tried and held. Dropped, nothing of it stays.
pub(crate) struct Ready {
    pub(crate) config: Arc<Config>,
    pub(crate) secrets: Secrets,
    pub(crate) ports: Fresh,
    pub(crate) claim: Claim,
    pub(crate) keeper: Keeper,
}

/// Files and sockets may hang, and the worker may be busy for long: meanwhile the daemon goes on.
pub(crate) async fn prepare(before: Before, hands: &Hands) -> Result<Ready, Exit> {
    let old = before.config.clone();
    let reading = tokio::task::spawn_blocking(move || read(&before));
    let read = match tokio::time::timeout(LONGEST, reading).await {
        Ok(read) => read.map_err(|e| Exit::software(e.to_string()))?,
        Err(_) => {
            let limit = LONGEST.as_secs();
            Err(Exit::unavailable(format!("the configuration and its files could not be read within {limit} s")))
        }
    };
    let (config, secrets, ports, keeper) = read?;
    let claim = hands
        .attempt({
            let new = config.clone();
            move || Engine::claim(&old, &new)
        })
        .await??;
    Ok(Ready { config, secrets, ports, claim, keeper })
}

fn read(before: &Before) -> Result<(Arc<Config>, Secrets, Fresh, Keeper), Exit> {
    let config = config::load(&before.path, config::environment())?;
    before.confinement.allows(&config).map_err(Exit::config)?;
    let config = before.ports.instead(config)?;
    privileges::gained(&before.config, &config).map_err(Exit::config)?;
    permission::check(&config)?;
    let secrets = Secrets::read(&config)?;
    let keeper = match &before.keeper {
        same if *same.dir().path() == *config.tree.state_dir => same.clone(),
        _ => Keeper::open(&config.tree.state_dir)?,
    };
    let ports = before.ports.prepare(&before.config, &config)?;
    Ok((Arc::new(config), secrets, ports, keeper))
}
