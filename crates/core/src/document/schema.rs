//! The JSON Schema of both forms, generated from the knob table.

use serde_json::{Map, Value, json};

use crate::ids::Controller;
use crate::knobs::{Field, Kind, Knob, knobs};

/// Draft 2020-12. It is as strict as JSON Schema can be; duplicate keys and twin knobs are left to `cgrove check`.
pub fn json_schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "cgrove document",
        "oneOf": [{"$ref": "#/$defs/by_group"}, {"$ref": "#/$defs/by_controller"}],
        "$defs": {
            "name": {
                "type": "string", "pattern": "^[A-Za-z0-9_@:-][A-Za-z0-9_.@:-]{0,127}$",
                "not": {"anyOf": [
                    {"enum": ["tasks", "notify_on_release", "release_agent", "_tasks"]},
                    {"pattern": format!("^(cgroup|{})\\.", controller_names().join("|"))},
                ]},
            },
            "digest": {"type": "string", "pattern": "^[0-9a-fA-F]{16}$", "description": "digest of the document that this one replaces"},
            "by_group": {
                "type": "object", "required": ["groups"], "additionalProperties": false,
                "properties": {
                    "groups": {"$ref": "#/$defs/groups"},
                    "controllers": {"type": "array", "items": {"enum": controller_names()}},
                    "ignore": {"$ref": "#/$defs/rules"},
                    "allow_removals": {"$ref": "#/$defs/digest"},
                    "signature": {"$ref": "#/$defs/signature"},
                },
            },
            "signature": {
                "type": "object", "additionalProperties": false, "required": ["key", "serial", "value"],
                "description": "Ed25519, made by cgrove push --sign",
                "properties": {"key": {"type": "string"}, "serial": {"type": "integer", "minimum": 0}, "value": {"type": "string"}},
            },
            "rules": {"type": "array", "items": {
                "type": "object", "additionalProperties": false, "minProperties": 1, "properties": rule(),
            }},
            "groups": {"type": "object", "propertyNames": {"$ref": "#/$defs/name"}, "additionalProperties": {"$ref": "#/$defs/group"}},
            "group": {
                "type": "object", "additionalProperties": false,
                "properties": {
                    "knobs": {"type": "object", "additionalProperties": false, "properties": schemas(knobs())},
                    "files": {"type": "object", "additionalProperties": {"type": ["string", "number"]}},
                    "pid_files": {"type": "array", "items": {"type": "string", "pattern": "^/", "not": {"pattern": "\\*\\*"}}},
                    "processes": {"$ref": "#/$defs/rules"},
                    "allow_reclaim": {"type": "boolean"},
                    "groups": {"$ref": "#/$defs/groups"},
                },
            },
            "by_controller": {
                "type": "object", "additionalProperties": false,
                "properties": by_controller(),
            },
        },
    })
}

/// Which processes: all criteria have to hold.
fn rule() -> Map<String, Value> {
    let about = [
        "systemd unit, name or glob: its main and control processes",
        "user's name or number",
        "program's path or glob",
        "glob over the command line",
        "descendants of the process that this pid file names",
    ];
    let rows = crate::rules::KEYS.iter().zip(about);
    rows.map(|(key, about)| ((*key).to_owned(), json!({"type": ["string", "integer"], "description": about}))).collect()
}

fn controller_names() -> Vec<&'static str> {
    let mut names: Vec<_> = Controller::ALL.iter().map(|c| c.name()).collect();
    names.push(Controller::Io.v1_name());
    names
}

fn by_controller() -> Map<String, Value> {
    let mut out = Map::new();
    for name in controller_names() {
        let controller = Controller::parse(name);
        let mut conf = schemas(knobs().filter(|k| Some(k.controller) == controller));
        for (short, long) in [("share", "cpu.shares"), ("weight", "blkio.weight")] {
            if let Some(schema) = conf.get(long).cloned() {
                conf.insert(short.into(), schema);
            }
        }
        let mut node =
            json!({"type": "object", "properties": {"conf": {"type": ["object", "null"], "properties": conf}}});
        node["properties"]["sub_cgroup"] = json!({
            "type": ["object", "null"], "propertyNames": {"$ref": "#/$defs/name"},
            "additionalProperties": {"$ref": format!("#/$defs/by_controller/properties/{name}")},
        });
        out.insert(name.into(), node);
    }
    out.insert("allow_removals".into(), json!({"$ref": "#/$defs/digest"}));
    out
}

fn schemas(rows: impl Iterator<Item = &'static Knob>) -> Map<String, Value> {
    rows.map(|k| (k.name.to_owned(), knob(k))).collect()
}

fn knob(knob: &Knob) -> Value {
    let integer = |min: i64, max: i64| {
        vec![
            json!({"type": "integer", "minimum": min, "maximum": max}),
            json!({"type": "string", "pattern": "^\\s*-?[0-9]+\\s*$"}),
        ]
    };
    let bytes = || {
        vec![
            json!({"type": "integer", "minimum": 0}),
            json!({"type": "string", "pattern": "^\\s*([0-9]+[KMGTkmgt]?|max|-1|[0-9.]+\\s*%)\\s*$"}),
        ]
    };
    let alternatives = match knob.kind {
        Kind::Int { min, max } => integer(min, max),
        Kind::IntOrMax { min, max } => [integer(min, max), vec![json!({"const": "max"})]].concat(),
        Kind::Bytes => bytes(),
        Kind::Bandwidth => vec![
            json!({"type": "integer", "minimum": 1000}),
            json!({"type": "string", "pattern": "^\\s*(max|[0-9]+|[0-9.]+\\s*%)(\\s+[0-9]+)?\\s*$"}),
        ],
        Kind::Quota => {
            vec![json!({"type": "integer", "minimum": -1}), json!({"type": "string", "pattern": "^\\s*-?[0-9]+\\s*$"})]
        }
        Kind::Flag => vec![json!({"enum": [0, 1, "0", "1", false, true]})],
        Kind::Ids => {
            vec![json!({"type": "string", "pattern": "^[0-9, -]+$"}), json!({"type": "integer", "minimum": 0})]
        }
        Kind::State => vec![json!({"enum": ["FROZEN", "THAWED"]})],
        Kind::Clamp => vec![
            json!({"type": "number", "minimum": 0, "maximum": 100}),
            json!({"type": "string", "pattern": "^\\s*([0-9.]+\\s*%?|max)\\s*$"}),
        ],
        Kind::Word(words) => vec![json!({"enum": words})],
        Kind::ClassId => vec![
            json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
            json!({"type": "string", "pattern": "^\\s*([0-9]+|0x[0-9a-fA-F]{1,8}|[0-9a-fA-F]{1,4}:[0-9a-fA-F]{1,4})\\s*$"}),
        ],
        Kind::Weight { min, max } => {
            let mut weights = disks(json!({"anyOf": integer(min as i64, max as i64)}));
            weights["propertyNames"] = json!({"anyOf": [{"const": "default"}, {"pattern": DISK}]});
            weights["minProperties"] = json!(1);
            [integer(min as i64, max as i64), vec![weights]].concat()
        }
        Kind::PerDisk(fields) => vec![disks(line(fields))],
        Kind::PerName(fields) => {
            vec![
                json!({"type": "object", "propertyNames": {"pattern": "^\\S+$"}, "additionalProperties": line(fields)}),
            ]
        }
        Kind::Rules => {
            let rule = json!({"type": "string", "pattern": "^\\s*(a(\\s+\\*:\\*\\s+rwm)?|[bc]\\s+([0-9]+|\\*):([0-9]+|\\*)\\s+[rwm]+)\\s*$"});
            vec![json!({"type": "array", "minItems": 1, "items": rule})]
        }
    };
    json!({"description": format!("{}; default {}", knob.about, knob.default), "anyOf": alternatives})
}

/// A disk by number, by path, or all whole ones.
const DISK: &str = "^([0-9]+:[0-9]+|/dev/\\S+|\\*)$";

fn disks(value: Value) -> Value {
    json!({"type": "object", "propertyNames": {"pattern": DISK}, "additionalProperties": value})
}

fn line(fields: &[Field]) -> Value {
    let number = |f: &Field| {
        let mut forms = vec![json!({"type": "integer", "minimum": f.min, "maximum": f.max})];
        let units = if f.bytes { "[KMGTkmgt]?" } else { "" };
        let or_max = if f.or_max { "|max" } else { "" };
        forms.push(json!({"type": "string", "pattern": format!("^\\s*([0-9]+{units}{or_max})\\s*$")}));
        json!({"anyOf": forms})
    };
    match fields {
        [only] if only.name.is_empty() => number(only),
        _ => {
            let properties: Map<String, Value> = fields.iter().map(|f| (f.name.to_owned(), number(f))).collect();
            json!({"type": "object", "additionalProperties": false, "properties": properties})
        }
    }
}
