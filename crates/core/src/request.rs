//! What a client of the port asks: one JSON text, or a path with a query, checked once. Cgrouparch's requests
//! (`show_account`, `get_conf`) and cgrove's own.

use serde_json::{Map, Value, json};

use crate::document::nearest;
use crate::event::{Filter, Kind};
use crate::ids::{Controller, GroupPath};
use crate::usage::View;

/// One request. Nothing that can be asked changes anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Measurements of a range of slots.
    ShowAccount {
        slots: Slots,
        view: View,
        /// Another node's, out of the Redis that both use.
        node: Option<String>,
    },
    /// The document in force.
    GetConf,
    GetStatus,
    /// The declared groups, all or below one.
    ListGroups {
        group: Option<GroupPath>,
    },
    /// One group: what is declared, what the kernel has, who is in it.
    GetGroup {
        group: GroupPath,
    },
    /// What happened lately.
    GetEvents {
        filter: Filter,
        /// Only what came after the event with this number.
        after: Option<u64>,
        nr: Option<u64>,
    },
    /// Be told from now on.
    Subscribe(Topic),
    Unsubscribe(TopicName),
}

/// What a client can be told of as it comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topic {
    Slots(View),
    Status,
    Events(Filter),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicName {
    Slots,
    Status,
    Events,
}

impl Topic {
    pub fn name(&self) -> TopicName {
        match self {
            Self::Slots(_) => TopicName::Slots,
            Self::Status => TopicName::Status,
            Self::Events(_) => TopicName::Events,
        }
    }
}

impl TopicName {
    const ALL: [Self; 3] = [Self::Slots, Self::Status, Self::Events];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Slots => "slots",
            Self::Status => "status",
            Self::Events => "events",
        }
    }
}

/// A range of slots as it was asked for; both ends count. Each is a Unix second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slots {
    pub start: Option<u64>,
    pub end: Option<u64>,
    pub nr: Option<u64>,
    /// Only every so manieth slot, counted back from the last.
    pub step: Option<u64>,
}

/// What came in: the request, or why it is none, and the mark by which the client knows the reply.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub id: Option<Value>,
    pub request: Result<Request, String>,
}

/// Commands that have one answer, then those that only a WebSocket has.
const COMMANDS: [&str; 8] =
    ["show_account", "get_conf", "get_status", "list_groups", "get_group", "get_events", "subscribe", "unsubscribe"];

const SHAPE: &str = r#"a request is {"cmd": "show_account", "args": {"nr_slot": 2}}"#;

/// Groups have at most so many levels.
const DEEPEST: u64 = 16;

/// An `id` longer than this is no mark but a burden.
const LONGEST_ID: usize = 256;

impl Asked {
    /// The error is for the client: what is wrong and what is allowed.
    pub fn parse(message: &str) -> Self {
        let mut request: Value = match serde_json::from_str(message) {
            Ok(request) => request,
            Err(e) => return Self { id: None, request: Err(format!("not JSON: {e}; {SHAPE}")) },
        };
        let id = match request.get_mut("id").map(Value::take) {
            None | Some(Value::Null) => None,
            Some(id @ (Value::String(_) | Value::Number(_))) if id.to_string().len() <= LONGEST_ID => Some(id),
            Some(_) => {
                let why = format!("\"id\" must be a number or a text of at most {LONGEST_ID} bytes");
                return Self { id: None, request: Err(why) };
            }
        };
        Self { id, request: Request::of_message(&request) }
    }
}

impl Request {
    fn of_message(request: &Value) -> Result<Self, String> {
        let Some(Value::String(cmd)) = request.get("cmd") else { return Err(format!("no \"cmd\"; {SHAPE}")) };
        match request.get("args") {
            None | Some(Value::Null) => Self::of(cmd, &Map::new()),
            Some(Value::Object(args)) => Self::of(cmd, args),
            Some(_) => Err(format!("\"args\" is not an object; {SHAPE}")),
        }
    }

    /// The same question as a path's last part and a query's pairs, which are all text.
    pub fn of_query<'a>(cmd: &str, pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        if matches!(cmd, "subscribe" | "unsubscribe") {
            return Err(format!("{cmd} needs a WebSocket"));
        }
        let typed = |key: &str, text: &str| match key {
            "controllers" | "kinds" => Value::from(text.split(',').collect::<Vec<_>>()),
            "rates" if text == "true" || text == "false" => Value::from(text == "true"),
            "group" | "node" => Value::from(text),
            _ => text.parse::<u64>().map_or_else(|_| Value::from(text), Value::from),
        };
        let args = pairs.map(|(key, text)| (key.to_owned(), typed(key, text))).collect();
        Self::of(cmd, &args)
    }

    fn of(cmd: &str, args: &Map<String, Value>) -> Result<Self, String> {
        match cmd {
            "show_account" => {
                let slot = |name| number(args, name);
                let step = slot("step")?;
                if step == Some(0) {
                    return Err("args.step is 0: must be 1 or more".into());
                }
                let slots = Slots { start: slot("start_slot")?, end: slot("end_slot")?, nr: slot("nr_slot")?, step };
                Ok(Self::ShowAccount { slots, view: view(args)?, node: node(args)? })
            }
            "get_conf" => Ok(Self::GetConf),
            "get_status" => Ok(Self::GetStatus),
            "list_groups" => Ok(Self::ListGroups { group: group(args)? }),
            "get_group" => {
                let group = group(args)?.ok_or("args.group is missing: a path such as \"/clients/vm-1\"")?;
                Ok(Self::GetGroup { group })
            }
            "get_events" => {
                let (after, nr) = (number(args, "after")?, number(args, "nr")?);
                Ok(Self::GetEvents { filter: filter(args)?, after, nr })
            }
            "subscribe" => Ok(Self::Subscribe(match topic(args)? {
                TopicName::Slots => Topic::Slots(view(args)?),
                TopicName::Status => Topic::Status,
                TopicName::Events => Topic::Events(filter(args)?),
            })),
            "unsubscribe" => Ok(Self::Unsubscribe(topic(args)?)),
            _ => {
                let hint =
                    nearest(cmd, COMMANDS.into_iter()).map(|n| format!("; did you mean {n}")).unwrap_or_default();
                Err(format!("unknown cmd {cmd:?}{hint}. Known: {}", COMMANDS.join(", ")))
            }
        }
    }
}

impl Slots {
    /// First and last slot. Nothing older than `keep` seconds, nor newer than `now`, is stored anywhere: a wide range
    /// costs nothing, and an empty one has its first after its last.
    pub fn within(self, newest: Option<u64>, now: u64, keep: u64) -> (u64, u64) {
        let end = self.end.or(newest).unwrap_or(now);
        let start = self.start.unwrap_or_else(|| (end + 1).saturating_sub(self.nr.unwrap_or(10)));
        let now = newest.unwrap_or(now).max(now);
        (start.max((now + 1).saturating_sub(keep)), end.min(now))
    }

    /// The slots of a range that are wanted, oldest first.
    pub fn wanted(self, first: u64, last: u64) -> impl Iterator<Item = u64> {
        let step = self.step.unwrap_or(1).max(1);
        let first = if first > last { first } else { first + (last - first) % step };
        (first..=last).step_by(usize::try_from(step).unwrap_or(usize::MAX))
    }
}

fn topic(args: &Map<String, Value>) -> Result<TopicName, String> {
    let to = args.get("to").and_then(Value::as_str);
    to.and_then(|to| TopicName::ALL.into_iter().find(|t| t.as_str() == to)).ok_or_else(|| {
        let given = args.get("to").map_or("missing".to_owned(), Value::to_string);
        format!("args.to is {given}: must be one of \"slots\", \"status\", \"events\"")
    })
}

fn view(args: &Map<String, Value>) -> Result<View, String> {
    let rates = match args.get("rates") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(rates)) => *rates,
        Some(value) => return Err(format!("args.rates is {value}: must be true or false")),
    };
    let mut controllers = names(args, "controllers", Controller::parse, &Controller::ALL.map(Controller::name))?;
    if let Some(list) = &mut controllers {
        list.sort_unstable();
        list.dedup();
    }
    // No tree is deeper: all such views are one.
    let depth = number(args, "depth")?.filter(|depth| *depth < DEEPEST);
    Ok(View { group: group(args)?, depth, controllers, rates })
}

fn filter(args: &Map<String, Value>) -> Result<Filter, String> {
    let kinds = names(args, "kinds", Kind::parse, &Kind::ALL.map(Kind::name))?;
    Ok(Filter { group: group(args)?, kinds })
}

/// A list of names, each of which has to be known.
fn names<T>(
    args: &Map<String, Value>,
    key: &str,
    parse: impl Fn(&str) -> Option<T>,
    known: &[&str],
) -> Result<Option<Vec<T>>, String> {
    let list = match args.get(key) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(list)) => list,
        Some(value) => {
            return Err(format!("args.{key} is {value}: must be a list of names, as in {}", json!(known.get(..2))));
        }
    };
    let one = |value: &Value| {
        let name = value.as_str().unwrap_or_default();
        parse(name).ok_or_else(|| {
            let hint = nearest(name, known.iter().copied()).map(|n| format!("did you mean {n}? ")).unwrap_or_default();
            format!("args.{key} has {value}: {hint}known are {}", known.join(", "))
        })
    };
    list.iter().map(one).collect::<Result<_, _>>().map(Some)
}

/// A slot number or count: a whole number that is not negative, as exact as JavaScript's.
fn number(args: &Map<String, Value>, name: &str) -> Result<Option<u64>, String> {
    match args.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().filter(|n| *n < 1 << 53) {
            Some(n) => Ok(Some(n)),
            None => Err(format!("args.{name} is {value}: must be a whole number, 0 or more")),
        },
    }
}

fn group(args: &Map<String, Value>) -> Result<Option<GroupPath>, String> {
    match args.get("group") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(path)) => GroupPath::parse(path).map(Some).map_err(|e| format!("args.group: {e}")),
        Some(value) => Err(format!("args.group is {value}: must be a path such as \"/clients/vm-1\"")),
    }
}

/// A node's name becomes part of a key.
fn node(args: &Map<String, Value>) -> Result<Option<String>, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    match args.get("node") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(name)) if (1..=253).contains(&name.len()) && name.chars().all(fits) => {
            Ok(Some(name.clone()))
        }
        Some(value) => Err(format!("args.node is {value}: must be a node's name, as in \"node-7\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(message: &str) -> Result<Request, String> {
        Asked::parse(message).request
    }

    fn args(text: &str) -> Result<Request, String> {
        parse(&format!(r#"{{"cmd": "show_account", "args": {text}}}"#))
    }

    fn slots(start: Option<u64>, end: Option<u64>, nr: Option<u64>, step: Option<u64>) -> Slots {
        Slots { start, end, nr, step }
    }

    #[test]
    fn numbers_are_strict() {
        let good = args(r#"{"start_slot": 5, "end_slot": null, "nr_slot": 2, "unknown": true}"#);
        let slots = slots(Some(5), None, Some(2), None);
        assert_eq!(good, Ok(Request::ShowAccount { slots, view: View::default(), node: None }));
        for bad in ["-1", "\"5\"", "1.5", "1e300", "[]", "9007199254740992"] {
            assert!(args(&format!(r#"{{"nr_slot": {bad}}}"#)).unwrap_err().contains("whole number"), "{bad}");
        }
    }

    #[test]
    fn what_is_no_request_is_told_how_one_looks() {
        for bad in ["", "[]", "{}", "7", r#"{"cmd": 5}"#, r#"{"cmd": "get_conf", "args": []}"#] {
            assert!(parse(bad).unwrap_err().contains("show_account"), "{bad}");
        }
        assert!(parse(r#"{"cmd": "show_acount"}"#).unwrap_err().contains("did you mean show_account"));
        for (bad, hint) in [
            (r#"{"group": "/../x"}"#, "args.group"),
            (r#"{"step": 0}"#, "args.step"),
            (r#"{"rates": 1}"#, "args.rates"),
            (r#"{"controllers": "cpu"}"#, "args.controllers"),
            (r#"{"controllers": ["cpux"]}"#, "did you mean cpu? known are cpu, "),
            (r#"{"controllers": [7]}"#, "has 7: known are cpu"),
            (r#"{"node": "a/b"}"#, "args.node"),
            (r#"{"node": ""}"#, "args.node"),
        ] {
            assert!(args(bad).unwrap_err().contains(hint), "{bad}");
        }
        assert!(parse(r#"{"cmd": "subscribe", "args": {"to": "x"}}"#).unwrap_err().contains("args.to is \"x\""));
        assert!(parse(r#"{"cmd": "get_group"}"#).unwrap_err().contains("args.group"));
    }

    #[test]
    fn an_id_comes_back_with_errors_too() {
        let asked = Asked::parse(r#"{"cmd": "nonsense", "id": "a1"}"#);
        assert_eq!((asked.id, asked.request.is_err()), (Some(Value::from("a1")), true));
        assert_eq!(Asked::parse(r#"{"cmd": "get_conf", "id": 7}"#).id, Some(Value::from(7)));
        let long = format!(r#"{{"cmd": "get_conf", "id": "{}"}}"#, "x".repeat(300));
        for bad in [long.as_str(), r#"{"cmd": "get_conf", "id": []}"#] {
            assert!(Asked::parse(bad).request.unwrap_err().contains("\"id\""), "{bad}");
        }
    }

    #[test]
    fn a_query_asks_the_same() {
        let ask = |cmd, query: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            Request::of_query(cmd, pairs)
        };
        let same =
            args(r#"{"nr_slot": 3, "group": "/a", "controllers": ["cpu", "memory"], "rates": true, "node": "7"}"#);
        assert_eq!(ask("show_account", "nr_slot=3&group=/a&controllers=cpu,memory&rates=true&node=7"), same);
        assert!(same.is_ok());
        assert!(ask("show_account", "nr_slot=x").unwrap_err().contains("args.nr_slot"));
        assert!(ask("show_account", "rates=1").unwrap_err().contains("args.rates"));
        assert!(ask("subscribe", "to=slots").unwrap_err().contains("WebSocket"));
    }

    #[test]
    fn a_range_ends_where_slots_do() {
        let ask = |start, end, nr| slots(start, end, nr, None).within(Some(1000), 1001, 300);
        assert_eq!(ask(None, None, None), (991, 1000));
        assert_eq!(ask(None, None, Some(1)), (1000, 1000));
        assert_eq!(ask(None, Some(900), Some(1 << 52)), (702, 900));
        assert_eq!(ask(Some(0), Some((1 << 53) - 1), None), (702, 1001));
        assert_eq!(ask(Some(999), Some(995), None), (999, 995));
        assert_eq!(Slots::default().within(None, 50, 300), (41, 50));
    }

    #[test]
    fn steps_are_counted_back_from_the_end() {
        let wanted = |step, first, last| slots(None, None, None, Some(step)).wanted(first, last).collect::<Vec<_>>();
        assert_eq!(wanted(1, 5, 7), [5, 6, 7]);
        assert_eq!(wanted(3, 1, 10), [1, 4, 7, 10]);
        assert_eq!(wanted(4, 1, 10), [2, 6, 10]);
        assert_eq!(wanted(1 << 52, 1, 10), [10]);
        assert!(wanted(2, 7, 5).is_empty());
    }
}
