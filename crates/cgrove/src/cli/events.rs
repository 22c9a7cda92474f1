//! `cgrove events`: what happened, and what happens.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use super::args::{Args, EventsArgs};
use super::client::Client;
use super::runtime::in_runtime;
use crate::exit::Exit;
use crate::term::{self, Paint};

pub(super) fn run(args: &Args, asked: &EventsArgs) -> Result<u8, Exit> {
    let kinds = (!asked.kinds.is_empty()).then_some(&asked.kinds);
    let show = |events: &Value| {
        let mut lines = events.as_array().into_iter().flatten();
        lines.all(|event| term::out(&if args.global.json() { event.to_string() } else { line(event, Paint::stdout()) }))
    };
    in_runtime(async {
        let mut client = Client::connect(args, &asked.whom).await?;
        if asked.follow {
            // First the subscription, then what was before: nothing falls in between.
            let request =
                json!({ "cmd": "subscribe", "args": { "to": "events", "group": asked.group, "kinds": kinds } });
            client.ask(&request).await.map_err(|e| Exit::usage(e.message))?;
        }
        let request = json!({ "cmd": "get_events", "id": "before", "args": { "nr": asked.number, "group": asked.group, "kinds": kinds } });
        client.send(&request).await?;
        let mut early = Vec::new();
        let before = loop {
            let message = client.next_json().await.map_err(|e| Exit::usage(e.message))?;
            if message["id"] == "before" {
                break message;
            }
            early.push(message);
        };
        let mut open = show(&before["events"]);
        let known = before["newest"].as_u64().unwrap_or(0);
        for message in &mut early {
            if let Some(events) = message["events"].as_array_mut() {
                events.retain(|e| e["seq"].as_u64().unwrap_or(0) > known);
            }
            open &= show(&message["events"]);
        }
        while open && asked.follow {
            let message = client.next_json().await?;
            if let Some(dropped) = message["dropped"].as_u64() {
                term::err(&format!("cgrove: {dropped} events came faster than they were read, and are lost"));
            }
            open = show(&message["events"]);
        }
        Ok(0)
    })?
}

fn line(event: &Value, paint: Paint) -> String {
    let text = |key: &str| event[key].as_str().unwrap_or_default();
    let when = UNIX_EPOCH + Duration::from_millis(event["time"].as_u64().unwrap_or(0));
    let kind = format!("{:<17}", text("kind"));
    let kind = match text("kind") {
        "oom_kill" | "action_failed" | "document_refused" | "removals_held" => paint.red(&kind),
        "drift_repaired" | "memory_high" | "memory_max" | "pressure" => paint.yellow(&kind),
        _ => kind,
    };
    let times = event["count"].as_u64().filter(|n| *n > 1 && text("kind") != "plan_applied");
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
}
