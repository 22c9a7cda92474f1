//! One group's knobs, declared and in the kernel, side by side: for people to look at.

use serde::Serialize;

use super::Policy;
use super::group::knobs_of;
use crate::actual::Actual;
use crate::desired::Desired;
use crate::ids::GroupPath;
use crate::knobs::Site;

/// One file of one hierarchy that the document concerns.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Compared {
    pub hierarchy: String,
    /// As the document names it.
    pub knob: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// What the file should say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted: Option<String>,
    /// What it says; nothing while the group is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    pub differs: bool,
    /// A conversion, what the kernel made of the value, or why this kernel cannot express it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Every knob of a declared group; empty for one that is not declared.
pub fn compare(desired: &Desired, actual: &Actual, policy: &Policy, path: &GroupPath) -> Vec<Compared> {
    let mut out = Vec::new();
    let Some(group) = desired.groups.get(path) else { return out };
    for hierarchy in actual.hierarchies.iter().filter(|h| h.controllers.intersects(group.controllers)) {
        let there = hierarchy.groups.get(path);
        let has = |f: &str| hierarchy.files.contains(f);
        let (version, machine, conversion) = (hierarchy.version, &actual.machine, policy.conversion);
        let resolved = Site { version, machine, conversion, has: &has }.resolve(&knobs_of(group, hierarchy));
        let row = |knob: &str| Compared {
            hierarchy: hierarchy.label.clone(),
            knob: knob.into(),
            file: None,
            wanted: None,
            kernel: None,
            differs: false,
            note: None,
        };
        for (knob, why) in &resolved.unsupported {
            out.push(Compared { note: Some(format!("not expressible here: {why}")), ..row(knob) });
        }
        for file in resolved.files {
            let kernel = there.and_then(|g| g.values.get(&file.file)).map(|v| v.trim().to_owned());
            // A value that the kernel rounded when we wrote it is as it should be.
            let kept = there.and_then(|g| g.ours()?.files.get(&file.file)?.kept.clone());
            let rounded = kept.is_some() && kept == kernel;
            let as_wanted = kernel.as_ref().is_some_and(|k| file.want.matches(k, machine.page));
            let note = file.conversion.or_else(|| (rounded && !as_wanted).then(|| "rounded by the kernel".to_owned()));
            out.push(Compared {
                wanted: Some(file.want.shown()),
                differs: !as_wanted && !rounded,
                file: Some(file.file),
                kernel,
                note,
                ..row(file.knob)
            });
        }
        for (file, text) in &group.files {
            if !has(file) {
                continue;
            }
            let kernel = there.and_then(|g| g.values.get(file)).map(|v| v.trim().to_owned());
            let differs = kernel.as_deref() != Some(text.trim());
            let note = Some("a raw file".to_owned());
            let (named, wanted) = (Some(file.clone()), Some(text.clone()));
            out.push(Compared { file: named, wanted, kernel, differs, note, ..row(file) });
        }
    }
    out
}
