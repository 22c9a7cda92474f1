//! `cgrove events`: what happened, and what happens.

use std::time::{Duration, UNIX_EPOCH};

use cgrove_core::event::{Kind, Weight};
use serde_json::{Value, json};

use super::args::{Args, EventsArgs};
use super::client::{Client, MOST, PATIENCE};
use super::feed::{Feed, Told};
use super::groups::{self, Unknown};
use super::reply::{SUBSCRIPTION, silent, stranger, typed, understood};
use super::runtime::in_runtime;
use crate::exit::Exit;
use crate::term::{self, Paint};

/// As many events that a lost connection hid are shown when it is back.
const MISSED: u64 = 1000;

pub(super) fn run(args: &Args, asked: &EventsArgs) -> Result<u8, Exit> {
    let kinds = (!asked.kinds.is_empty()).then_some(&asked.kinds);
    let show = |events: &Value| {
        let mut lines = events.as_array().into_iter().flatten();
        lines.all(|event| if args.global.json() { term::json(event) } else { term::out(&line(event, Paint::stdout())) })
    };
    in_runtime(async {
        let mut client = Client::connect(args, &asked.whom).await?;
        let group = match &asked.group {
            Some(name) => Some(groups::path(&mut client, name, Unknown::Told).await?),
            None => None,
        };
        let mut known = Known::default();
        if !asked.follow {
            show(&json!(known.before(&mut client, asked.number, group.as_ref(), kinds).await?));
            return Ok(0);
        }
        // First the subscription, then what was before: nothing falls in between.
        let arguments = json!({ "to": "events", "group": group, "kinds": kinds });
        let mut feed = Feed::open(args, &asked.whom, client, arguments).await?;
        let mut open = show(&json!(known.before(&mut feed.client, asked.number, group.as_ref(), kinds).await?));
        while open {
            open = match feed.next().await? {
                Told::Again => match known.before(&mut feed.client, MISSED, group.as_ref(), kinds).await {
                    Ok(missed) => show(&json!(missed)),
                    // Lost once more, which is seen at the next turn.
                    Err(_) => true,
                },
                Told::Message(message) => {
                    if let Some(dropped) = message["dropped"].as_u64() {
                        term::err(&format!("cgrove: {dropped} events came faster than they were read, and are lost"));
                    }
                    show(&json!(known.unseen(&message["events"])))
                }
            };
        }
        Ok(0)
    })?
}

/// The newest event that was shown. Numbers begin anew with a daemon, times do not.
#[derive(Default)]
struct Known {
    seq: u64,
    time: u64,
}

impl Known {
    /// Those that were not shown yet; from now on they are.
    fn unseen(&mut self, events: &Value) -> Vec<Value> {
        let number = |e: &Value, key: &str| e[key].as_u64().unwrap_or(0);
        let events = events.as_array().into_iter().flatten();
        let new: Vec<Value> =
            events.filter(|e| number(e, "seq") > self.seq || number(e, "time") > self.time).cloned().collect();
        if let Some(last) = new.last() {
            (self.seq, self.time) = (number(last, "seq"), number(last, "time"));
        }
        new
    }

    /// What happened until now, with what a subscription tells meanwhile.
    async fn before(
        &mut self,
        client: &mut Client,
        most: u64,
        group: Option<&String>,
        kinds: Option<&Vec<String>>,
    ) -> Result<Vec<Value>, Exit> {
        let request =
            json!({ "cmd": "get_events", "id": "before", "args": { "nr": most, "group": group, "kinds": kinds } });
        let place = client.place().to_owned();
        let (message, early) = tokio::time::timeout(PATIENCE, Self::reply(client, &request))
            .await
            .unwrap_or_else(|_| Err(silent(&place, PATIENCE)))?;
        let mut new = self.unseen(&message["events"]);
        early.iter().for_each(|e| new.extend(self.unseen(&e["events"])));
        Ok(new)
    }

    /// The reply, and what a subscription told before it.
    async fn reply(client: &mut Client, request: &Value) -> Result<(Value, Vec<Value>), Exit> {
        client.send(request).await?;
        let (mut early, mut bytes) = (Vec::new(), 0);
        loop {
            let text = client.next().await?;
            bytes += text.len();
            if bytes > MOST {
                return Err(stranger(client.place(), "it sends other messages without end and does not answer"));
            }
            match understood(client.place(), SUBSCRIPTION, &text) {
                Ok(message) => early.push(message),
                Err(_) => return Ok((understood(client.place(), "get_events", &text).map_err(typed)?, early)),
            }
        }
    }
}

fn line(event: &Value, paint: Paint) -> String {
    let text = |key: &str| event[key].as_str().unwrap_or_default();
    let when = UNIX_EPOCH + Duration::from_millis(event["time"].as_u64().unwrap_or(0));
    let kind = format!("{:<17}", text("kind"));
    let kind = match Kind::parse(text("kind")).map(Kind::weight) {
        Some(Weight::Bad) => paint.red(&kind),
        Some(Weight::Warning) => paint.yellow(&kind),
        _ => kind,
    };
    let times = event["count"].as_u64().filter(|n| *n > 1 && !matches!(text("kind"), "plan_applied" | "removals_held"));
    // A sum says it in words.
    let times = times.filter(|_| !text("text").starts_with("and "));
    let times = times.map(|n| format!(" ({n} times)")).unwrap_or_default();
    let place = [text("group"), text("knob")].join(" ");
    let hierarchy = match text("hierarchy") {
        "" => String::new(),
        hierarchy => paint.dim(&format!(" [{hierarchy}]")),
    };
    format!("{} {kind} {:<24} {}{times}{hierarchy}", humantime::format_rfc3339_millis(when), place.trim(), text("text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_each() {
        let event = json!({ "seq": 5, "time": 1_764_115_200_123_u64, "kind": "oom_kill", "group": "/web", "hierarchy": "memory", "count": 2, "text": "processes were killed" });
        let wanted = "2025-11-26T00:00:00.123Z oom_kill          /web                     processes were killed (2 times) [memory]";
        assert_eq!(line(&event, Paint::none()), wanted);
    }

    #[test]
    fn nothing_twice_and_a_new_daemons_numbers_are_new() {
        let mut known = Known::default();
        let mut seqs =
            |events: Value| known.unseen(&events).iter().map(|e| e["seq"].as_u64().unwrap()).collect::<Vec<_>>();
        assert_eq!(seqs(json!([{ "seq": 4, "time": 10 }, { "seq": 5, "time": 10 }])), [4, 5]);
        assert_eq!(seqs(json!([{ "seq": 5, "time": 10 }, { "seq": 6, "time": 10 }])), [6]);
        assert_eq!(seqs(json!([{ "seq": 1, "time": 12 }, { "seq": 2, "time": 12 }])), [1, 2]);
        assert_eq!(seqs(json!([{ "seq": 2, "time": 12 }])), [0; 0]);
    }
}
