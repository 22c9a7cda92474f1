//! docs/knobs.md is the table; `CGROVE_UPDATE_DOCS=1 cargo test` writes it.

use super::{Field, Kind, Knob, Side, knobs};

#[test]
fn the_reference_page_is_this_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/knobs.md");
    if std::env::var_os("CGROVE_UPDATE_DOCS").is_some() {
        std::fs::write(path, page()).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), page(), "run CGROVE_UPDATE_DOCS=1 cargo test -p cgrove-core");
}

fn page() -> String {
    let mut out = String::from(
        "# Knobs\n\nGenerated from `crates/core/src/knobs/table/`. Any name may be used on any node; a name of the other cgroup\n\
         version is converted, and `cgrove plan` shows the result. Ranges and defaults are the kernel's. Sources are files of the\n\
         kernel's `Documentation/admin-guide/`, or of its source where they have a `.c`.\n\n\
         Disks are named by number (`\"8:0\"`), by path (`\"/dev/sda\"`, `\"/dev/disk/by-id/...\"`), or all whole ones together\n\
         by `\"*\"`; one that is named besides beats `\"*\"`. Bytes may be written with K, M, G, T (powers of 1024).\n",
    );
    let mut controller = None;
    for k in knobs().filter(|k| !k.name.starts_with("hugetlb.") || k.name.starts_with("hugetlb.2MB.")) {
        if controller != Some(k.controller) {
            controller = Some(k.controller);
            out += &format!(
                "\n## {}\n\n| knob | values | default | on v1 | on v2 | kernel | source | |\n|---|---|---|---|---|---|---|---|\n",
                k.controller
            );
        }
        out += &row(k);
    }
    out.replace("hugetlb.2MB.", "hugetlb.&lt;size&gt;.")
        .replace("pages of 2MB", "pages of that size (2MB, 1GB, 64KB, ...)")
}

fn row(k: &Knob) -> String {
    let list = |files: &[&str], glue: &str| files.iter().map(|f| format!("`{f}`")).collect::<Vec<_>>().join(glue);
    let side = |side| match side {
        Side::Native => "itself".to_owned(),
        Side::Files(files) => list(files, ", "),
        Side::FirstOf(files) => list(files, ", else "),
        Side::Absent(why) => format!("no: {why}"),
    };
    let (v1, v2) = (side(k.v1), side(k.v2));
    let line = format!(
        "| `{}` | {} | {} | {v1} | {v2} | {} | {} | {} |\n",
        k.name,
        values(k.kind),
        k.default,
        k.since,
        k.source,
        k.about
    );
    if k.name.starts_with("hugetlb.") { line.replace('`', "") } else { line }
}

fn values(kind: Kind) -> String {
    match kind {
        Kind::Int { min, max } => format!("{min} to {max}"),
        Kind::IntOrMax { min, max } => format!("{min} to {max}, or `max`"),
        Kind::Bytes => "bytes, `N%` of memory, or `max`".into(),
        Kind::Bandwidth => "`max`, `N%` of all CPUs, microseconds, or `QUOTA PERIOD`".into(),
        Kind::Quota => "1000 or more, or -1".into(),
        Kind::Clamp => "0 to 100 percent, or `max`".into(),
        Kind::Flag => "0 or 1".into(),
        Kind::Word(words) => words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", "),
        Kind::Ids => "a list, `0-3,8`".into(),
        Kind::State => "`FROZEN` or `THAWED`".into(),
        Kind::ClassId => "`\"10:1\"` as tc writes it, or a number".into(),
        Kind::Weight { min, max } => format!("{min} to {max}, or `{{\"default\": {min}, \"8:0\": {max}}}`"),
        Kind::PerDisk(fields) => format!("`{{\"8:0\": {}}}`", line(fields)),
        Kind::PerName(fields) => format!("`{{\"name\": {}}}`", line(fields)),
        Kind::Rules => "`[\"c 1:3 rwm\", \"b 8:* r\"]`, or `[\"a\"]`".into(),
    }
}

fn line(fields: &[Field]) -> String {
    let number = |f: &Field| if f.bytes { "\"100M\"" } else { "50" };
    match fields {
        [only] if only.name.is_empty() => number(only).into(),
        _ => format!(
            "{{{}}}",
            fields.iter().map(|f| format!("\"{}\": {}", f.name, number(f))).collect::<Vec<_>>().join(", ")
        ),
    }
}
