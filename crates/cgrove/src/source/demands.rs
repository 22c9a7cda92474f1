//! What a document has to be, beside well-formed: signed by someone trusted, not older than the one in force, and not
//! writable by anybody.

use cgrove_core::document;

use super::trust::{self, Trust};
use super::{Document, Fetched};
use cgrove_config::Config;

/// What a document has to be, beside well-formed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Demands {
    pub(super) trust: Trust,
    safe_acl: bool,
    accept_older: bool,
}

impl Demands {
    /// Reads the keys; the error names the file.
    pub(crate) fn read(config: &Config) -> Result<Self, String> {
        let trust = Trust::read(&config.tree.trusted_keys)?;
        Ok(Self { trust, safe_acl: config.zookeeper.require_safe_acl, accept_older: config.zookeeper.accept_older })
    }

    /// May this document follow the one in force? With the error comes the digest that an operator may approve.
    pub(crate) fn met(
        &self,
        new: &Fetched,
        current: Option<&Document>,
        approved: bool,
    ) -> Result<(), (String, Option<String>)> {
        let never = |why: String| Err((why, None));
        if let Some(exposed) = new.exposed.as_ref().filter(|_| self.safe_acl) {
            return never(format!("{exposed}; zookeeper.require_safe_acl refuses that"));
        }
        let signed = match self.trust.check(&new.bytes) {
            Ok(signature) => signature,
            Err(why) => return never(why),
        };
        let Some(current) = current.filter(|c| c.bytes != new.bytes) else { return Ok(()) };
        if let Some((signature, before)) = signed.zip(trust::signature(&current.bytes)) {
            // What an operator signed later is later, whatever ZooKeeper counts. White space may change.
            return if signature.serial > before.serial || signature == before {
                Ok(())
            } else {
                never(format!(
                    "it was signed before the one in force (serial {}, in force is {}); sign it anew to go back",
                    signature.serial, before.serial
                ))
            };
        }
        match (new.mzxid, current.mzxid) {
            (Some(mzxid), Some(before)) if mzxid < before && !self.accept_older && !approved => {
                let digest = document::digest(&new.bytes);
                let why = format!(
                    "it is older than the one in force (mzxid {mzxid:#x}, in force is {before:#x}): a ZooKeeper server that lags, or a ZooKeeper set up anew; if it is right, `cgrove approve {digest}` takes it here, and zookeeper.accept_older everywhere"
                );
                Err((why, Some(digest)))
            }
            _ => Ok(()),
        }
    }
}
