//! `cgrove status`: what the daemon knows about itself.

use cgrove_config::Config;
use serde_json::{Value, json};

use super::args::{Args, Whom};
use super::client::Client;
use super::feed::{Feed, Told};
use super::reply::{fits, stranger};
use super::runtime::in_runtime;
use crate::exit::Exit;
use crate::term::{self, Page, Paint};

/// The daemon's status document.
pub(super) fn fetch(config: &Config) -> Result<Value, Exit> {
    in_runtime(async { Client::local(config).await?.ask(&json!({ "cmd": "get_status" })).await })?
}

pub(super) fn run(args: &Args, whom: &Whom, follow: bool) -> Result<u8, Exit> {
    let show = |status: &Value| {
        if args.global.json() { term::json(status) } else { term::page(&render_status(status, Paint::stdout())) }
    };
    in_runtime(async {
        let mut client = Client::connect(args, whom).await?;
        if !follow {
            show(&client.ask(&json!({ "cmd": "get_status" })).await?);
            return Ok(0);
        }
        let mut feed = Feed::open(args, whom, client, json!({ "to": "status" })).await?;
        loop {
            // The status comes at once, also when the connection was made again.
            let Told::Message(message) = feed.next().await? else { continue };
            if !fits("get_status", &message["value"]) {
                return Err(stranger(feed.client.place(), "what it sent is no status"));
            }
            if !show(&message["value"]) {
                return Ok(0);
            }
        }
    })?
}

fn render_status(s: &Value, paint: Paint) -> Page {
    let mut out = Page::default();
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let good = |ok: bool, yes: &str, no: &str| if ok { paint.green(yes) } else { paint.red(no) };
    let yes = |v: &Value| v.as_bool() == Some(true);
    // Padded first: a colour's code has no width.
    let mut line = |key: &str, value: String| out.line(format!("{} {value}", paint.bold(&format!("{key:<10}"))));
    line(
        "cgrove",
        format!(
            "{} on {}, pid {}, {}",
            text(&s["version"]),
            text(&s["node"]),
            s["pid"],
            good(yes(&s["ready"]), "ready", "not ready")
        ),
    );
    let kept = s["capabilities"].as_array().into_iter().flatten().map(&text).collect::<Vec<_>>();
    line("", paint.dim(&format!("capabilities {}", if kept.is_empty() { "none".into() } else { kept.join(" ") })));
    let landlock = &s["landlock"];
    let places = landlock["writable"].as_array().into_iter().flatten().map(&text).collect::<Vec<_>>();
    let confined = match landlock["enforced"].as_str() {
        Some("fully" | "partly") => {
            format!(
                "Landlock {}: all but the thread that works on cgroups write only below {}",
                text(&landlock["enforced"]),
                places.join(", ")
            )
        }
        _ => "Landlock not enforced: this kernel lacks it, or it is not allowed".into(),
    };
    line("", paint.dim(&confined));
    let error = |v: &Value| v["error"].as_str().map(|e| format!(": {e}")).unwrap_or_default();
    line(
        "source",
        format!(
            "{} {}{}",
            good(yes(&s["source"]["connected"]), "connected", "away"),
            text(&s["source"]["place"]),
            error(&s["source"])
        ),
    );
    if let Some(exposed) = s["source"]["exposed"].as_str() {
        line("", format!("{} {exposed}", paint.yellow("warning")));
    }
    match &s["document"] {
        Value::Null => line("document", paint.red("none in force")),
        d => {
            let kept = if yes(&d["last_good"]) { ", the last good one from disk" } else { "" };
            line(
                "document",
                format!("version {}, {} groups, digest {}{kept}", d["version"], d["groups"], text(&d["digest"])),
            );
            for warning in d["warnings"].as_array().into_iter().flatten() {
                line("", format!("{} {}", paint.yellow("warning"), text(warning)));
            }
        }
    }
    if let Some(error) = s["refused"]["error"].as_str() {
        line("refused", paint.red(&format!("version {}: {error}", s["refused"]["version"])));
    }
    let state = &s["state"];
    if let Some(error) = state["error"].as_str() {
        line("state", paint.red(&format!("{error}; removals are held until it can be read and written")));
    }
    let unsaved: Vec<String> = state["not_yet_kept"].as_array().into_iter().flatten().map(&text).collect();
    if !unsaved.is_empty() {
        line("state", paint.yellow(&format!("{}: not yet on the disk: {}", text(&state["dir"]), unsaved.join(", "))));
    }
    if let Some(error) = state["approvals_error"].as_str() {
        line("state", paint.yellow(&format!("approvals: {error}; what cannot be read is not approved")));
    }
    let p = &s["plan"];
    // An older daemon lists all.
    let count =
        |list: &str| p[format!("{list}_total")].as_u64().unwrap_or(p[list].as_array().map_or(0, Vec::len) as u64);
    let more = |list: &str| count(list).saturating_sub(p[list].as_array().map_or(0, Vec::len) as u64);
    line(
        "tree",
        format!(
            "{} rounds, {} actions done, {} failing, {} held",
            p["rounds"],
            p["done_total"],
            count("failures"),
            count("held")
        ),
    );
    if let Some(progress) = p["progress"].as_str() {
        line("", progress.to_owned());
    }
    for f in p["failures"].as_array().into_iter().flatten() {
        line("", paint.red(&text(&f["error"])));
    }
    if more("failures") > 0 {
        line("", paint.red(&format!("and {} more failures", more("failures"))));
    }
    if p["guard"]["approved"].as_bool() == Some(false) {
        let digest = text(&p["guard"]["digest"]);
        line("", paint.red(&format!("removals held: {}; cgrove approve {digest}", text(&p["guard"]["why"]))));
    }
    for h in p["held"].as_array().into_iter().flatten().filter(|h| !text(&h["why"]).starts_with("guard")) {
        let knob = h["knob"].as_str().map(|k| format!(" {k}")).unwrap_or_default();
        line("", format!("held {} {}{knob}: {}", text(&h["hierarchy"]), text(&h["group"]), text(&h["why"])));
    }
    for n in p["notes"].as_array().into_iter().flatten() {
        let knob = n["knob"].as_str().map(|k| format!(" {k}")).unwrap_or_default();
        line("", paint.dim(&format!("{} {}{knob}: {}", text(&n["hierarchy"]), text(&n["group"]), text(&n["text"]))));
    }
    if more("notes") > 0 {
        line("", paint.dim(&format!("and {} more notes", more("notes"))));
    }
    let t = &s["tasks"];
    line(
        "processes",
        format!(
            "{} placed ({} by pid files that name them, others by descent and rules), {} moved so far",
            t["processes"], t["named"], t["moved_total"]
        ),
    );
    let lists = ["problems", "left_alone", "left_units"].map(|key| t[key].as_array());
    for problem in lists.into_iter().flatten().flatten() {
        line("", paint.yellow(&text(problem)));
    }
    let u = &s["usage"];
    line(
        "usage",
        format!(
            "{} slots held ({} KiB), {} measured, {} gaps, {} dropped, disk traffic from {}",
            u["held"],
            u["held_bytes"].as_u64().unwrap_or(0) / 1024,
            u["slots_total"],
            u["gaps_total"],
            u["dropped_total"],
            text(&u["io_source"])
        ),
    );
    let st = &s["store"];
    let conflict = st["owner_conflict"]
        .as_str()
        .map(|o| format!(": node {o} writes under the same redis.prefix"))
        .unwrap_or_default();
    line(
        "store",
        format!(
            "{} {}, {} written, {} replayed{}{conflict}",
            text(&st["kind"]),
            good(yes(&st["connected"]), "connected", "away"),
            st["written_total"],
            st["replayed_total"],
            error(st)
        ),
    );
    for problem in s["server"]["errors"].as_array().into_iter().flatten() {
        line("server", paint.red(&text(problem)));
    }
    let dropped = s["server"]["dropped_clients"].as_object();
    let dropped: Vec<_> = dropped.into_iter().flatten().map(|(why, n)| format!("{n} ({why})")).collect();
    if !dropped.is_empty() {
        line("", paint.dim(&format!("clients dropped: {}", dropped.join(", "))));
    }
    out
}
