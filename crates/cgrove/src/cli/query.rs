//! `cgrove status` and `cgrove usage`: asking the running daemon over its own WebSocket.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::args::Args;
use super::document;
use super::runtime::in_runtime;
use crate::exit::Exit;
use crate::term::{self, Paint};
use cgrove_config::{Address, Config};

const PATIENCE: Duration = Duration::from_secs(10);

/// One request, one reply as text.
fn ask(config: &Config, request: &Value) -> Result<String, Exit> {
    // The socket needs no token, whatever the ports need.
    let listen = &config.server.listen;
    let unix = listen.iter().find(|a| matches!(a, Address::Unix(_)));
    let address = unix.or(listen.first()).ok_or_else(|| Exit::unavailable("server.listen is empty".into()))?;
    let exchange = async {
        let stream = reach(address).await.map_err(|e| e.to_string())?;
        let (mut socket, _) =
            tokio_tungstenite::client_async("ws://localhost/", stream).await.map_err(|e| match e {
                Error::Http(reply)
                    if matches!(reply.status(), StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS) =>
                {
                    "server.trust_loopback is false: add \"/run/cgrove/cgrove.sock\" to server.listen, for this command"
                        .to_owned()
                }
                e => e.to_string(),
            })?;
        socket.send(Message::text(request.to_string())).await.map_err(|e| e.to_string())?;
        while let Some(message) = socket.next().await {
            if let Message::Text(text) = message.map_err(|e| e.to_string())? {
                return Ok(text.as_str().to_owned());
            }
        }
        Err("it closed the connection".to_owned())
    };
    let limited = async { tokio::time::timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err("no answer".into())) };
    in_runtime(limited)?
        .map_err(|e| Exit::unavailable(format!("no daemon answers on {address}: {e}; is `cgrove run` running?")))
}

trait Both: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Both for T {}

async fn reach(address: &Address) -> std::io::Result<Box<dyn Both>> {
    let mut address = match address {
        Address::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
        Address::Tcp(address) => *address,
    };
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    Ok(Box::new(TcpStream::connect(address).await?))
}

fn ask_json(config: &Config, request: &Value) -> Result<Value, Exit> {
    let value: Value = serde_json::from_str(&ask(config, request)?)
        .map_err(|e| Exit::unavailable(format!("the reply is not JSON: {e}")))?;
    match value.get("error") {
        Some(error) => Err(Exit::unavailable(error.as_str().unwrap_or_default().to_owned())),
        None => Ok(value),
    }
}

/// The daemon's status document.
pub(super) fn fetch_status(config: &Config) -> Result<Value, Exit> {
    ask_json(config, &json!({ "cmd": "get_status" }))
}

/// `cgrove status`
pub(super) fn status(args: &Args) -> Result<u8, Exit> {
    let config = document::load(args)?;
    let status = fetch_status(&config)?;
    if args.global.json() {
        term::out(&status.to_string());
    } else {
        term::out(&render_status(&status, Paint::stdout()));
    }
    Ok(0)
}

fn render_status(s: &Value, paint: Paint) -> String {
    let mut out = String::new();
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let good = |ok: bool, yes: &str, no: &str| if ok { paint.green(yes) } else { paint.red(no) };
    let yes = |v: &Value| v.as_bool() == Some(true);
    let mut line = |key: &str, value: String| {
        let _ = writeln!(out, "{:<10} {value}", paint.bold(key));
    };
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
    let p = &s["plan"];
    let count = |v: &Value| v.as_array().map_or(0, Vec::len);
    line(
        "tree",
        format!(
            "{} rounds, {} actions done, {} failing, {} held",
            p["rounds"],
            p["done_total"],
            count(&p["failures"]),
            count(&p["held"])
        ),
    );
    for f in p["failures"].as_array().into_iter().flatten() {
        line("", paint.red(&text(&f["error"])));
    }
    if p["guard"]["approved"].as_bool() == Some(false) {
        let digest = text(&p["guard"]["digest"]);
        line("", paint.red(&format!("removals held: {}; cgrove approve {digest}", text(&p["guard"]["why"]))));
    }
    for h in p["held"].as_array().into_iter().flatten().filter(|h| !text(&h["why"]).starts_with("guard")) {
        line("", format!("held {} {}: {}", text(&h["hierarchy"]), text(&h["group"]), text(&h["why"])));
    }
    for n in p["notes"].as_array().into_iter().flatten() {
        let knob = n["knob"].as_str().map(|k| format!(" {k}")).unwrap_or_default();
        line("", paint.dim(&format!("{} {}{knob}: {}", text(&n["hierarchy"]), text(&n["group"]), text(&n["text"]))));
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
    out.trim_end().to_owned()
}

/// `cgrove usage`
pub(super) fn usage(args: &Args, slots: u64, follow: bool, group: Option<&str>) -> Result<u8, Exit> {
    let config = document::load(args)?;
    // A table shows rates, which take two slots.
    let nr_slot = if args.global.json() { slots } else { slots.max(2) };
    let mut newest = 0;
    loop {
        let request = json!({ "cmd": "show_account", "args": { "nr_slot": nr_slot, "group": group } });
        let reply = ask(&config, &request)?;
        let value: BTreeMap<String, Value> =
            serde_json::from_str(&reply).map_err(|e| Exit::unavailable(format!("the reply is not JSON: {e}")))?;
        if let Some(error) = value.get("error").and_then(Value::as_str) {
            return Err(Exit::usage(error.to_owned()));
        }
        let last = value.keys().filter_map(|k| k.parse::<u64>().ok()).max().unwrap_or(0);
        if last > newest {
            newest = last;
            let shown = |value| render_usage(value, group.unwrap_or("/"), Paint::stdout());
            let text = if args.global.json() { reply } else { shown(&value) };
            if !term::out(&text) {
                return Ok(0);
            }
        }
        if !follow {
            return Ok(0);
        }
        #[allow(clippy::disallowed_methods, reason = "a foreground command that only waits")]
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// One group's line: rates over the slots at hand, levels from the newest.
#[derive(Default)]
struct Line {
    cpu: Option<f64>,
    memory: Option<u64>,
    pids: Option<u64>,
    read: Option<f64>,
    written: Option<f64>,
}

fn render_usage(slots: &BTreeMap<String, Value>, top: &str, paint: Paint) -> String {
    let mut seconds: Vec<u64> = slots.keys().filter_map(|k| k.parse().ok()).collect();
    seconds.sort_unstable();
    let (Some(first), Some(last)) = (seconds.first(), seconds.last()) else {
        return "no slots yet".into();
    };
    let span = (last - first) as f64;
    let mut lines: BTreeMap<String, Line> = BTreeMap::new();
    if let (Some(Value::Object(now)), Some(before)) = (slots.get(&last.to_string()), slots.get(&first.to_string())) {
        for (controller, node) in now {
            walk(&mut lines, controller, top.trim_end_matches('/'), node, &before[controller], span);
        }
    }
    let mut out = paint.bold(&format!(
        "{:<32} {:>8} {:>10} {:>7} {:>11} {:>11}",
        format!("slot {last}"),
        "CPU %",
        "memory",
        "pids",
        "read/s",
        "written/s"
    ));
    let show = |v: Option<String>| v.unwrap_or_else(|| "-".into());
    for (path, l) in lines {
        let path = if path.is_empty() { "/".to_owned() } else { path };
        let _ = write!(
            out,
            "\n{path:<32} {:>8} {:>10} {:>7} {:>11} {:>11}",
            show(l.cpu.map(|c| format!("{c:.1}"))),
            show(l.memory.map(|m| size(m as f64))),
            show(l.pids.map(|p| p.to_string())),
            show(l.read.map(size)),
            show(l.written.map(size)),
        );
    }
    out
}

fn walk(lines: &mut BTreeMap<String, Line>, controller: &str, path: &str, now: &Value, before: &Value, span: f64) {
    let line = lines.entry(path.to_owned()).or_default();
    let value = &now["value"];
    // A counter that fell belongs to a group made anew: no rate.
    let rate =
        |now: Option<u64>, before: Option<u64>| Some((now?.checked_sub(before?)?) as f64 / span).filter(|_| span > 0.0);
    match controller {
        "cpu" | "cpuacct" => {
            line.cpu = rate(value["usage"].as_u64(), before["value"]["usage"].as_u64()).map(|ns| ns / 1e7)
        }
        "memory" => line.memory = value["current"].as_u64(),
        "pids" => line.pids = value["current"].as_u64(),
        "io" | "blkio" => {
            let sum = |v: &Value, key: &str| {
                v["value"].as_object().map(|devices| devices.values().filter_map(|d| d[key].as_u64()).sum::<u64>())
            };
            line.read = rate(sum(now, "Read"), sum(before, "Read"));
            line.written = rate(sum(now, "Write"), sum(before, "Write"));
        }
        _ => {}
    }
    for (name, child) in now["sub_cgroup"].as_object().into_iter().flatten() {
        walk(lines, controller, &format!("{path}/{name}"), child, &before["sub_cgroup"][name], span);
    }
}

fn size(bytes: f64) -> String {
    const UNITS: [&str; 5] = ["B", "K", "M", "G", "T"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{value:.0} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_come_from_counters_and_a_recreated_group_has_none() {
        let slot = |a: u64, b: u64| json!({"cpu": {"value": {}, "sub_cgroup": {"a": {"value": {"usage": a}}, "b": {"value": {"usage": b}}}}, "memory": {"value": {"current": 2048}}});
        let slots = BTreeMap::from([("10".to_owned(), slot(0, 500)), ("11".to_owned(), slot(500_000_000, 1))]);
        let shown = render_usage(&slots, "/", Paint::none());
        assert!(shown.contains("50.0") && shown.contains("2.0 K"), "{shown}");
        assert!(shown.lines().any(|l| l.starts_with("/b") && l.contains(" - ")), "{shown}");
        assert_eq!(render_usage(&BTreeMap::new(), "/", Paint::none()), "no slots yet");
    }
}
