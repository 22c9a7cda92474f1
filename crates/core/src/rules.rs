//! Rules that say which processes belong to a group, beside pid files: by systemd unit, user, program, command line,
//! or an ancestor. All criteria of a rule have to hold.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::json::Json;

/// What a rule looks at. At least one is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Criteria {
    /// A systemd unit's name or glob: its main and control processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// A user's name or number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The program's path, or a glob (`*` also matches `/`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// A glob over the whole command line, arguments joined by spaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    /// Descendants of the process that this pid file names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ancestor_pid_file: Option<String>,
}

/// The keys of a rule.
pub const KEYS: [&str; 5] = ["unit", "user", "exe", "cmdline", "ancestor_pid_file"];

impl Criteria {
    /// Reads a document's rule; the error says what is allowed.
    pub fn from_json(json: &Json) -> Result<Self, String> {
        let how = || format!("an object with one or more of {}", KEYS.join(", "));
        let Json::Object(entries) = json else { return Err(how()) };
        let mut out = Self::default();
        for (key, value) in entries {
            let text = match value {
                Json::String(text) => text.clone(),
                Json::Number(n) if key == "user" => n.to_string(),
                _ => return Err(format!("{key}: a string")),
            };
            let slot = match key.as_str() {
                "unit" => &mut out.unit,
                "user" => &mut out.user,
                "exe" => &mut out.exe,
                "cmdline" => &mut out.cmdline,
                "ancestor_pid_file" => &mut out.ancestor_pid_file,
                _ => return Err(format!("{} (not {key:?})", how())),
            };
            *slot = Some(text);
        }
        out.check()?;
        Ok(out)
    }

    /// Does every criterion make sense by itself?
    pub fn check(&self) -> Result<(), String> {
        if *self == Self::default() {
            return Err(format!("one or more of {}", KEYS.join(", ")));
        }
        for (key, glob) in [("unit", &self.unit), ("exe", &self.exe), ("cmdline", &self.cmdline)] {
            if glob.as_ref().is_some_and(|g| g.is_empty() || glob::Pattern::new(g).is_err()) {
                return Err(format!("{key}: a name or glob, with *, ? and [...]"));
            }
        }
        let unit_names = |u: &String| {
            u.chars().all(|c| c.is_ascii_alphanumeric() || "_.@:-\\*?[]!".contains(c)) && !u.starts_with('-')
        };
        if !self.unit.as_ref().is_none_or(unit_names) || self.unit.as_ref().is_some_and(|u| u.contains("@.")) {
            return Err("unit: a systemd unit's name or glob, as in \"nginx.service\" or \"getty@*.service\"".into());
        }
        if self.exe.as_ref().is_some_and(|e| !e.starts_with(['/', '*'])) {
            return Err("exe: an absolute path or glob, as in \"/usr/sbin/nginx\" or \"*/java\"".into());
        }
        if self.ancestor_pid_file.as_ref().is_some_and(|p| !p.starts_with('/')) {
            return Err("ancestor_pid_file: an absolute path".into());
        }
        Ok(())
    }

    /// The glob for unit names; like systemctl, a bare name means a service.
    pub fn unit_glob(&self) -> Option<String> {
        let name = self.unit.as_ref()?;
        const KINDS: [&str; 11] =
            ["service", "scope", "socket", "slice", "mount", "automount", "swap", "target", "timer", "path", "device"];
        let named = name.rsplit_once('.').is_some_and(|(_, kind)| KINDS.contains(&kind));
        Some(if named || name.contains(['*', '?', '[']) { name.clone() } else { format!("{name}.service") })
    }

    /// For people: `user "www", exe "/usr/*"`.
    pub fn shown(&self) -> String {
        let fields = [&self.unit, &self.user, &self.exe, &self.cmdline, &self.ancestor_pid_file];
        let set = KEYS.iter().zip(fields).filter_map(|(key, value)| Some(format!("{key} {:?}", value.as_ref()?)));
        set.collect::<Vec<_>>().join(", ")
    }

    /// As a document writes it.
    pub fn to_json(&self) -> Json {
        let fields = [&self.unit, &self.user, &self.exe, &self.cmdline, &self.ancestor_pid_file];
        let set =
            KEYS.iter().zip(fields).filter_map(|(key, value)| Some(((*key).to_owned(), Json::String(value.clone()?))));
        Json::Object(set.collect())
    }
}

/// What of a process rules may look at beyond its place in the family; read only when some rule does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traits {
    pub uid: u32,
    pub exe: String,
    pub cmdline: String,
    /// What could not be read in time.
    pub unknown: Needs,
}

/// Traits by pid.
pub type AllTraits = std::collections::HashMap<i32, Traits>;

/// What has to be read for a set of rules.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    pub uid: bool,
    pub exe: bool,
    pub cmdline: bool,
}

impl Needs {
    pub fn of<'a>(rules: impl Iterator<Item = &'a Criteria>) -> Self {
        rules.fold(Self::default(), |n, c| Self {
            uid: n.uid || c.user.is_some(),
            exe: n.exe || c.exe.is_some(),
            cmdline: n.cmdline || c.cmdline.is_some(),
        })
    }

    pub fn any(self) -> bool {
        self.uid || self.exe || self.cmdline
    }
}

/// What the node knows about the names in rules: users, units, pid files.
#[derive(Debug, Clone, Default)]
pub struct Known {
    pub users: BTreeMap<String, u32>,
    /// Main and control processes by unit name, with their start times.
    pub units: BTreeMap<String, Vec<(i32, u64)>>,
    /// The process that each pid file names, with its start time.
    pub pid_files: BTreeMap<String, (i32, u64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_strict() {
        let read = |text: &str| Criteria::from_json(&crate::json::parse(text).unwrap());
        let good = read(r#"{"user": 1000, "exe": "/usr/bin/*"}"#).unwrap();
        assert_eq!(good.shown(), r#"user "1000", exe "/usr/bin/*""#);
        assert_eq!(Criteria::from_json(&good.to_json()), Ok(good));
        for bad in [
            "{}",
            "5",
            r#"{"exe": 5}"#,
            r#"{"exe": "nginx"}"#,
            r#"{"exe": "/["}"#,
            r#"{"prog": "x"}"#,
            r#"{"unit": "a b"}"#,
            r#"{"unit": "--now"}"#,
            r#"{"ancestor_pid_file": "x"}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
