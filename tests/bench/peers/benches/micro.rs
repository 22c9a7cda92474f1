//! CPU-bound parts by time, with spread:   cd tests/bench && cargo bench --bench micro

use std::hint::black_box;

use cgrove_bench_parts::{by_controller, by_group, desired, empty_node, planned, render, render_by_values, settled};
use cgrove_cgroupfs::procs;
use cgrove_core::document;
use cgrove_core::rules::Needs;
use cgrove_core::usage::{Template, View};
use criterion::{Criterion, criterion_group, criterion_main};

fn parts(c: &mut Criterion) {
    for groups in [100, 1000, 10_000] {
        let text = by_group(groups);
        let wanted = desired(&text);
        let (empty, right) = (empty_node(), settled(&wanted, empty_node()));
        let template = Template::new(&desired(&by_controller(groups)));
        let mut slot = Vec::new();
        render(&template, &mut slot);
        let mut out = Vec::with_capacity(slot.len());
        let mut group = c.benchmark_group(format!("{groups} groups"));
        group.sample_size(20);
        group.bench_function("parse a document", |b| b.iter(|| document::parse(black_box(text.as_bytes()))));
        group.bench_function("plan an empty node", |b| b.iter(|| planned(&wanted, black_box(&empty))));
        group.bench_function("plan a settled node", |b| b.iter(|| planned(&wanted, black_box(&right))));
        group.bench_function("render a slot", |b| {
            b.iter(|| {
                out.clear();
                render(black_box(&template), &mut out);
            });
        });
        group.bench_function("render a slot through values", |b| b.iter(|| render_by_values(black_box(groups))));
        let view = View { depth: Some(0), ..View::default() };
        group.bench_function("narrow a stored slot", |b| b.iter(|| view.of(black_box(&slot), None)));
        group.finish();
    }
    c.bench_function("a pass over /proc", |b| b.iter(|| procs::scan(Needs::default())));
}

criterion_group!(benches, parts);
criterion_main!(benches);
