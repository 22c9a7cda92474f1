//! `cgrove schema`, `completions`, `man`: generated, never written by hand.

use std::path::Path;

use clap::CommandFactory;

use super::args::Args;
use crate::exit::Exit;
use crate::term;

pub(super) fn schema() -> Result<u8, Exit> {
    term::json_pretty(&cgrove_core::document::json_schema());
    Ok(0)
}

pub(super) fn completions(shell: clap_complete::Shell) -> Result<u8, Exit> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "cgrove", &mut text);
    term::generated(&text);
    Ok(0)
}

/// The main page on standard output, or every page (`cgrove.1`, `cgrove-plan.1`, ...) in a directory.
pub(super) fn man(directory: Option<&Path>) -> Result<u8, Exit> {
    let failed = |e: std::io::Error| Exit::unavailable(format!("man: {e}"));
    match directory {
        Some(directory) => {
            std::fs::create_dir_all(directory).map_err(failed)?;
            clap_mangen::generate_to(Args::command(), directory).map_err(failed)?;
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Args::command()).render(&mut page).map_err(failed)?;
            term::generated(&page);
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_schema_agrees_with_check() {
        let validator = jsonschema::validator_for(&cgrove_core::document::json_schema()).unwrap();
        let good = [
            include_str!("../../../../config/example-tree.json"),
            include_str!("../../../../config/arch_conf.json"),
            r#"{"groups": {}}"#,
            r#"{"cpu": {"sub_cgroup": {"a": {"conf": {"share": "100", "pids": [1]}, "extra": 1}}}}"#,
        ];
        let bad = [
            r#"{"groups": {"a": {"knobs": {"cpu.wieght": 1}}}}"#,
            r#"{"groups": {"a": {"knobs": {"cpu.weight": 0}}}}"#,
            r#"{"groups": {".a": {}}}"#,
            r#"{"groups": {"cpu.x": {}}}"#,
            r#"{"cpux": {}}"#,
            r#"{"cpu": {"sub_cgroup": {"a": {"conf": {"share": 1}}}}}"#,
            "[]",
        ];
        for text in good {
            let value: serde_json::Value = serde_json::from_str(text).unwrap();
            assert!(validator.is_valid(&value) && cgrove_core::document::parse(text.as_bytes()).is_ok(), "{text}");
        }
        for text in bad {
            let value: serde_json::Value = serde_json::from_str(text).unwrap();
            assert!(!validator.is_valid(&value) && cgrove_core::document::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
