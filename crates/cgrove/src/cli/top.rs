//! `cgrove top`: groups live in the terminal, over the same WebSocket that everybody has.

mod draw;
mod keys;
mod state;

use std::io::IsTerminal;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::args::{Args, TopArgs, Whom};
use super::client::Client;
use super::runtime::in_runtime;
use crate::exit::Exit;
use crate::term;
use keys::Wish;
use state::State;

/// The age of what is shown counts on this often.
const TICK: Duration = Duration::from_millis(500);
/// A group's details are asked for again this often.
const DETAILS: u32 = 4;
/// Slots that are fetched for looking back.
const PAST: u64 = 120;
/// The connection is tried again after this time.
const AGAIN: Duration = Duration::from_secs(1);

pub(super) fn run(args: &Args, asked: &TopArgs) -> Result<u8, Exit> {
    if !term::is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Exit::usage("top needs a terminal; `cgrove usage --follow` prints tables anywhere".into()));
    }
    in_runtime(async {
        // Before the screen is taken: whoever cannot be reached is told in plain lines.
        let client = begin(args, &asked.whom).await?;
        let keys = listen();
        let signals = |e: std::io::Error| Exit::unavailable(format!("signals: {e}"));
        let mut term = signal(SignalKind::terminate()).map_err(signals)?;
        let mut hup = signal(SignalKind::hangup()).map_err(signals)?;
        let mut terminal = ratatui::try_init().map_err(|e| Exit::unavailable(format!("the terminal: {e}")))?;
        let mut state = State::new(asked.sort, asked.flat);
        let ended = tokio::select! {
            ended = watch(&mut terminal, &mut state, client, keys, args, asked) => ended,
            // The screen is given back whatever ends us.
            _ = term.recv() => Ok(()),
            _ = hup.recv() => Ok(()),
        };
        ratatui::restore();
        ended.map(|()| 0)
    })?
}

/// Connected and subscribed; what was before has been asked for.
async fn begin(args: &Args, whom: &Whom) -> Result<Client, Exit> {
    let mut client = Client::connect_for_slots(args, whom).await?;
    for request in [
        json!({ "cmd": "show_account", "id": "past", "args": { "nr_slot": PAST, "rates": true } }),
        json!({ "cmd": "get_events", "id": "past events", "args": { "nr": 200 } }),
        json!({ "cmd": "subscribe", "id": "s", "args": { "to": "slots", "rates": true } }),
        json!({ "cmd": "subscribe", "id": "s", "args": { "to": "events" } }),
        json!({ "cmd": "subscribe", "id": "s", "args": { "to": "status" } }),
    ] {
        client.send(&request).await?;
    }
    Ok(client)
}

/// Keys come from a thread: reading them blocks.
fn listen() -> mpsc::Receiver<Event> {
    let (sender, keys) = mpsc::channel(64);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    keys
}

async fn watch(
    terminal: &mut DefaultTerminal,
    state: &mut State,
    client: Client,
    mut keys: mpsc::Receiver<Event>,
    args: &Args,
    asked: &TopArgs,
) -> Result<(), Exit> {
    let screen = |e: std::io::Error| Exit::unavailable(format!("the terminal: {e}"));
    let mut client = Some(client);
    let mut again = std::pin::pin!(begin_again(args, &asked.whom));
    let mut tick = tokio::time::interval(TICK);
    let mut ticks = 0;
    loop {
        terminal.draw(|frame| draw::draw(frame, state)).map_err(screen)?;
        let wish = tokio::select! {
            event = keys.recv() => match event {
                Some(Event::Key(key)) => keys::press(state, key),
                Some(_) => Wish::Nothing,
                None => return Ok(()),
            },
            message = next(&mut client) => {
                match message {
                    Ok(message) => state.take(message),
                    Err(e) => {
                        state.lost(&e.message);
                        client = None;
                        again.set(begin_again(args, &asked.whom));
                    }
                }
                Wish::Nothing
            }
            fresh = &mut again, if client.is_none() => {
                match fresh {
                    Ok(fresh) => {
                        client = Some(fresh);
                        state.found();
                    }
                    Err(_) => again.set(begin_again(args, &asked.whom)),
                }
                Wish::Nothing
            }
            _ = tick.tick() => {
                ticks += 1;
                if ticks % DETAILS == 0 && state.detail.is_some() { Wish::Details } else { Wish::Nothing }
            }
        };
        match wish {
            Wish::Nothing => {}
            Wish::Quit => return Ok(()),
            Wish::Details => {
                if let (Some(client), Some(path)) = (&mut client, state.asks()) {
                    let request = json!({ "cmd": "get_group", "id": "group", "args": { "group": path } });
                    // What fails here is seen when the next message is awaited.
                    let _ = client.send(&request).await;
                }
            }
        }
    }
}

async fn next(client: &mut Option<Client>) -> Result<Value, Exit> {
    match client {
        Some(client) => serde_json::from_str(&client.next().await?).map_err(|e| Exit::unavailable(e.to_string())),
        None => std::future::pending().await,
    }
}

async fn begin_again(args: &Args, whom: &Whom) -> Result<Client, Exit> {
    tokio::time::sleep(AGAIN).await;
    begin(args, whom).await
}
