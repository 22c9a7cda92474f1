//! What a client of the port asks: one JSON text, checked once. Cgrouparch's requests (`show_account`, `get_conf`) and
//! cgrove's own.

use serde_json::{Map, Value};

use crate::document::nearest;
use crate::ids::GroupPath;

/// One request. Nothing that can be asked changes anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Measurements of a range of slots, of all groups or of one subtree.
    ShowAccount {
        slots: Slots,
        group: Option<GroupPath>,
    },
    /// The document in force.
    GetConf,
    GetStatus,
    /// The declared groups, all or below one.
    ListGroups {
        group: Option<GroupPath>,
    },
}

/// A range of slots as it was asked for; both ends count. Each is a Unix second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slots {
    pub start: Option<u64>,
    pub end: Option<u64>,
    pub nr: Option<u64>,
}

const COMMANDS: [&str; 4] = ["show_account", "get_conf", "get_status", "list_groups"];

const SHAPE: &str = r#"a request is {"cmd": "show_account", "args": {"nr_slot": 2}}"#;

impl Request {
    /// The error is for the client: what is wrong and what is allowed.
    pub fn parse(message: &str) -> Result<Self, String> {
        let request: Value = serde_json::from_str(message).map_err(|e| format!("not JSON: {e}; {SHAPE}"))?;
        let Some(Value::String(cmd)) = request.get("cmd") else { return Err(format!("no \"cmd\"; {SHAPE}")) };
        let empty = Map::new();
        let args = match request.get("args") {
            None | Some(Value::Null) => &empty,
            Some(Value::Object(args)) => args,
            Some(_) => return Err(format!("\"args\" is not an object; {SHAPE}")),
        };
        match cmd.as_str() {
            "show_account" => {
                let slot = |name| number(args, name);
                let slots = Slots { start: slot("start_slot")?, end: slot("end_slot")?, nr: slot("nr_slot")? };
                Ok(Self::ShowAccount { slots, group: group(args)? })
            }
            "get_conf" => Ok(Self::GetConf),
            "get_status" => Ok(Self::GetStatus),
            "list_groups" => Ok(Self::ListGroups { group: group(args)? }),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> Result<Request, String> {
        Request::parse(&format!(r#"{{"cmd": "show_account", "args": {text}}}"#))
    }

    #[test]
    fn numbers_are_strict() {
        let slots = Slots { start: Some(5), end: None, nr: Some(2) };
        let good = args(r#"{"start_slot": 5, "end_slot": null, "nr_slot": 2, "unknown": true}"#);
        assert_eq!(good, Ok(Request::ShowAccount { slots, group: None }));
        for bad in ["-1", "\"5\"", "1.5", "1e300", "[]", "9007199254740992"] {
            assert!(args(&format!(r#"{{"nr_slot": {bad}}}"#)).unwrap_err().contains("whole number"), "{bad}");
        }
    }

    #[test]
    fn what_is_no_request_is_told_how_one_looks() {
        for bad in ["", "[]", "{}", "7", r#"{"cmd": 5}"#, r#"{"cmd": "get_conf", "args": []}"#] {
            assert!(Request::parse(bad).unwrap_err().contains("show_account"), "{bad}");
        }
        assert!(Request::parse(r#"{"cmd": "show_acount"}"#).unwrap_err().contains("did you mean show_account"));
        assert!(args(r#"{"group": "/../x"}"#).unwrap_err().starts_with("args.group"));
    }

    #[test]
    fn a_range_ends_where_slots_do() {
        let ask = |start, end, nr| Slots { start, end, nr }.within(Some(1000), 1001, 300);
        assert_eq!(ask(None, None, None), (991, 1000));
        assert_eq!(ask(None, None, Some(1)), (1000, 1000));
        assert_eq!(ask(None, Some(900), Some(1 << 52)), (702, 900));
        assert_eq!(ask(Some(0), Some((1 << 53) - 1), None), (702, 1001));
        assert_eq!(ask(Some(999), Some(995), None), (999, 995));
        assert_eq!(Slots::default().within(None, 50, 300), (41, 50));
    }
}
