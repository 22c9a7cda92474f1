//! `cgrove usage`: what groups use, as a table of rates, or as the stored slots.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::args::{Args, UsageArgs};
use super::client::Client;
use super::feed::{Feed, Told};
use super::figures::{Figures, bytes, collect};
use super::groups::{self, Unknown};
use super::reply::{typed, understood};
use super::runtime::in_runtime;
use crate::exit::Exit;
use crate::term::{self, Page, Paint};

pub(super) fn run(args: &Args, asked: &UsageArgs) -> Result<u8, Exit> {
    if asked.follow && asked.node.is_some() {
        return Err(Exit::usage("--follow is of the daemon's own slots; --node is not".into()));
    }
    in_runtime(async {
        let mut client = Client::connect_for_slots(args, &asked.whom).await?;
        let group = match (&asked.group, &asked.node) {
            (Some(name), None) => Some(groups::path(&mut client, name, Unknown::Refused).await?),
            (group, _) => group.clone(),
        };
        let asked = &UsageArgs { group, ..asked.clone() };
        if let Some(file) = &asked.plot {
            return plot(&mut client, asked, file).await;
        }
        if args.global.json() {
            return raw(client, args, asked).await;
        }
        let step = step(&mut client, asked).await?;
        let request = json!({ "cmd": "show_account", "args": {
            "nr_slot": 1, "step": step, "rates": true, "group": asked.group, "depth": asked.depth, "node": asked.node,
        } });
        let reply = client.ask(&request).await.map_err(typed)?;
        let newest = reply.as_object().and_then(|slots| slots.iter().next_back());
        let open = match newest {
            Some((slot, value)) => term::page(&table(slot, value, asked, Paint::stdout())),
            None => term::out("no slots yet"),
        };
        if !open || !asked.follow {
            return Ok(0);
        }
        let last = newest.and_then(|(slot, _)| slot.parse().ok()).unwrap_or(0);
        follow(client, args, asked, true, last, |message| {
            term::page(&table(&message["slot"].to_string(), &message["value"], asked, Paint::stdout()))
        })
        .await
    })?
}

/// Rates are shown over as many slots as were asked for, or as there are.
async fn step(client: &mut Client, asked: &UsageArgs) -> Result<u64, Exit> {
    let Some(slots) = asked.slots.filter(|n| *n > 2) else { return Ok(1) };
    let request = json!({ "cmd": "show_account", "args": {
        "nr_slot": slots, "group": asked.group, "depth": 0, "node": asked.node,
    } });
    let reply = client.ask(&request).await.map_err(typed)?;
    let there = reply.as_object().into_iter().flatten().filter_map(|(slot, _)| slot.parse::<u64>().ok());
    let (first, last) = there.fold((u64::MAX, 0), |(first, last), slot| (first.min(slot), last.max(slot)));
    Ok(last.saturating_sub(first).max(1))
}

/// The group and what is directly below it, over the kept slots.
async fn plot(client: &mut Client, asked: &UsageArgs, file: &Path) -> Result<u8, Exit> {
    const ALL: u64 = 1 << 40;
    let top = asked.group.as_deref().unwrap_or("/");
    let request = json!({ "cmd": "show_account", "args": {
        "nr_slot": asked.slots.unwrap_or(ALL), "rates": true, "group": asked.group, "depth": 1, "node": asked.node,
    } });
    let reply = client.ask(&request).await.map_err(typed)?;
    let slots = reply.as_object().into_iter().flatten();
    let slots = slots.filter_map(|(slot, value)| Some((slot.parse().ok()?, collect(value, top)))).collect();
    let node = match &asked.node {
        Some(node) => node.clone(),
        // Not everybody may ask for it.
        None => match client.ask(&json!({ "cmd": "get_status" })).await {
            Ok(status) => status["node"].as_str().unwrap_or_default().to_owned(),
            Err(_) => client.place().to_owned(),
        },
    };
    let title = format!("{top} on {node}, UTC");
    super::plot::draw(file, &title, top, &slots)?;
    Ok(0)
}

/// The stored slots as they are; followed, one line for each.
async fn raw(mut client: Client, args: &Args, asked: &UsageArgs) -> Result<u8, Exit> {
    let request = json!({ "cmd": "show_account", "args": {
        "nr_slot": asked.slots.unwrap_or(2), "group": asked.group, "depth": asked.depth, "node": asked.node,
    } });
    let reply = client.ask_text(&request).await?;
    let slots = understood(client.place(), "show_account", &reply).map_err(typed)?;
    let last = slots.as_object().into_iter().flatten().filter_map(|(slot, _)| slot.parse().ok()).max().unwrap_or(0);
    if !term::json_text(&reply) || !asked.follow {
        return Ok(0);
    }
    follow(client, args, asked, false, last, |message| {
        term::json(&json!({ message["slot"].to_string(): message["value"] }))
    })
    .await
}

async fn follow(
    client: Client,
    args: &Args,
    asked: &UsageArgs,
    rates: bool,
    mut last: u64,
    show: impl Fn(&Value) -> bool,
) -> Result<u8, Exit> {
    let arguments = json!({ "to": "slots", "rates": rates, "group": asked.group, "depth": asked.depth });
    let mut feed = Feed::open(args, &asked.whom, client, arguments).await?;
    loop {
        let Told::Message(message) = feed.next().await? else { continue };
        // The newest slot comes at once; it may have been shown.
        let Some(slot) = message["slot"].as_u64().filter(|slot| *slot > last) else { continue };
        last = slot;
        if !show(&message) {
            return Ok(0);
        }
    }
}

fn table(slot: &str, value: &Value, asked: &UsageArgs, paint: Paint) -> Page {
    let groups = collect(value, asked.group.as_deref().unwrap_or("/"));
    render(slot, &groups, paint)
}

fn render(slot: &str, groups: &BTreeMap<String, Figures>, paint: Paint) -> Page {
    let pressed = groups.values().any(|g| g.pressure.is_some());
    let wide = groups.keys().map(String::len).max().unwrap_or(0).clamp(24, 60);
    let mut head = format!(
        "{:<wide$} {:>8} {:>10} {:>7} {:>11} {:>11}",
        format!("slot {slot}"),
        "CPU %",
        "memory",
        "pids",
        "read/s",
        "written/s"
    );
    if pressed {
        let _ = write!(head, " {:>9}", "waiting");
    }
    let mut out = Page::default();
    out.line(paint.bold(&head));
    let show = |v: Option<String>| v.unwrap_or_else(|| "-".into());
    for (path, g) in groups {
        let mut line = format!(
            "{path:<wide$} {:>8} {:>10} {:>7} {:>11} {:>11}",
            show(g.cores.map(|c| format!("{:.1}", c * 100.0))),
            show(g.memory.map(bytes)),
            show(g.tasks.map(|p| p.to_string())),
            show(g.read.map(bytes)),
            show(g.written.map(bytes)),
        );
        if pressed {
            let _ = write!(line, " {:>9}", show(g.pressure.map(|p| format!("{p:.1} %"))));
        }
        out.line(line);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_with_what_they_use() {
        let value = json!({
            "cpu": { "value": {}, "sub_cgroup": { "a": { "value": { "usage": 500_000_000 } }, "b": { "value": {} } } },
            "memory": { "value": { "current": 2048 } },
        });
        let shown = render("11", &collect(&value, "/"), Paint::none()).to_string();
        assert!(shown.contains("50.0") && shown.contains("2.0 K") && !shown.contains("waiting"), "{shown}");
        assert!(shown.lines().any(|l| l.starts_with("/b") && l.contains(" - ")), "{shown}");
        let pressed = json!({ "cpu": { "value": {}, "pressure": { "some": { "avg10": 1.5, "total": 7 } } } });
        assert!(render("11", &collect(&pressed, "/x"), Paint::none()).to_string().contains("1.5 %"));
    }
}
