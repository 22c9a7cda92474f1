//! What cgrove thinks without asking the kernel: documents, plans, JSON.

use std::io::Result;

use cgrove_bench_parts::{by_controller, by_group, desired, empty_node, planned, render, render_by_values, settled};
use cgrove_core::document;
use cgrove_core::usage::Template;

use crate::clock::spent;

/// Nanoseconds for one slot's JSON, and for the same through a tree of values.
pub(crate) fn rendering(groups: usize, passes: u32) -> Result<(Vec<i64>, Vec<i64>)> {
    let template = Template::new(&desired(&by_controller(groups)));
    let mut out = Vec::new();
    let mut ours = || {
        out.clear();
        spent(|| Ok(render(&template, &mut out)))
    };
    let ours = (0..passes).map(|_| ours()).collect::<Result<_>>()?;
    let values = (0..passes).map(|_| spent(|| Ok(render_by_values(groups)))).collect::<Result<_>>()?;
    Ok((ours, values))
}

/// Nanoseconds to read a document, to plan it on an empty node, and on a settled one.
pub(crate) fn planning(groups: usize, passes: u32) -> Result<[Vec<i64>; 3]> {
    let text = by_group(groups);
    let wanted = desired(&text);
    let empty = empty_node();
    let right = settled(&wanted, empty.clone());
    assert!(planned(&wanted, &right).is_empty(), "a settled node needs nothing");
    let all = |work: &dyn Fn() -> Result<i64>| (0..passes).map(|_| work()).collect::<Result<Vec<_>>>();
    Ok([
        all(&|| spent(|| Ok(document::parse(text.as_bytes()).is_ok())))?,
        all(&|| spent(|| Ok(planned(&wanted, &empty))))?,
        all(&|| spent(|| Ok(planned(&wanted, &right))))?,
    ])
}
