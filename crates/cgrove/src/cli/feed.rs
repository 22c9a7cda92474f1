//! A subscription that goes on when the daemon reloads, is stopped for a while, or is upgraded.

use std::time::Duration;

use serde_json::{Value, json};

use super::args::{Args, Whom};
use super::client::Client;
use super::reply::{SUBSCRIPTION, typed, understood};
use crate::exit::Exit;
use crate::term;

/// Between attempts to reach a daemon that went away.
const AGAIN: Duration = Duration::from_secs(1);

pub(super) struct Feed<'a> {
    args: &'a Args,
    whom: &'a Whom,
    subscription: Value,
    pub(super) client: Client,
}

/// What a feed has to tell.
pub(super) enum Told {
    Message(Value),
    /// The connection was lost and made again; what was told meanwhile is missing.
    Again,
}

impl<'a> Feed<'a> {
    /// Subscribes; `arguments` are those of `subscribe`. Whatever is wrong with them is the user's to mend.
    pub(super) async fn open(
        args: &'a Args,
        whom: &'a Whom,
        mut client: Client,
        arguments: Value,
    ) -> Result<Self, Exit> {
        let subscription = json!({ "cmd": "subscribe", "args": arguments });
        client.ask(&subscription).await.map_err(typed)?;
        Ok(Self { args, whom, subscription, client })
    }

    /// Waits for as long as it takes.
    pub(super) async fn next(&mut self) -> Result<Told, Exit> {
        match self.client.next().await {
            Ok(text) => understood(self.client.place(), SUBSCRIPTION, &text).map(Told::Message),
            Err(lost) => {
                term::err(&format!("cgrove: {}; trying again each second", lost.message));
                self.client = loop {
                    tokio::time::sleep(AGAIN).await;
                    if let Ok(client) = self.begin().await {
                        break client;
                    }
                };
                term::err("cgrove: connected again");
                Ok(Told::Again)
            }
        }
    }

    async fn begin(&self) -> Result<Client, Exit> {
        let mut client = Client::connect(self.args, self.whom).await?;
        client.ask(&self.subscription).await?;
        Ok(client)
    }
}
