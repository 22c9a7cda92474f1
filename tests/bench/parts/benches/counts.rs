//! Instructions of the CPU-bound parts, counted by callgrind; tests/bench/counts holds them against what is recorded.

use std::hint::black_box;

use cgrove_bench_parts::{by_controller, by_group, desired, empty_node, planned, render, settled};
use cgrove_cgroupfs::procs;
use cgrove_core::actual::Actual;
use cgrove_core::desired::Desired;
use cgrove_core::document;
use cgrove_core::plan::Plan;
use cgrove_core::usage::{Before, Template, View};
use gungraun::{library_benchmark, library_benchmark_group, main};

const GROUPS: usize = 1000;

fn text() -> String {
    by_group(GROUPS)
}

fn empty() -> (Desired, Actual) {
    (desired(&text()), empty_node())
}

fn right() -> (Desired, Actual) {
    let (wanted, empty) = empty();
    let right = settled(&wanted, empty);
    (wanted, right)
}

fn template() -> (Template, Vec<u8>) {
    let template = Template::new(&desired(&by_controller(GROUPS)));
    let mut slot = Vec::new();
    // As large as it gets, so that growing is not counted.
    render(&template, &mut slot);
    slot.clear();
    (template, slot)
}

fn slot() -> Vec<u8> {
    let (template, mut slot) = template();
    render(&template, &mut slot);
    slot
}

#[library_benchmark(setup = text)]
#[bench::groups_1000()]
fn parse(text: String) -> Desired {
    black_box(document::parse(black_box(text.as_bytes()))).unwrap_or_else(|e| panic!("{e}"))
}

#[library_benchmark]
#[bench::empty_node(empty())]
#[bench::settled_node(right())]
fn plan((wanted, actual): (Desired, Actual)) -> Plan {
    black_box(planned(black_box(&wanted), black_box(&actual)))
}

#[library_benchmark(setup = template)]
#[bench::groups_1000()]
fn render_slot((template, mut out): (Template, Vec<u8>)) -> Vec<u8> {
    render(black_box(&template), &mut out);
    black_box(out)
}

#[library_benchmark(setup = slot)]
#[bench::groups_1000()]
fn narrow(slot: Vec<u8>) -> Option<Vec<u8>> {
    black_box(View { depth: Some(0), ..View::default() }.of(black_box(&slot), None))
}

#[library_benchmark(setup = slot)]
#[bench::groups_1000()]
fn rates(slot: Vec<u8>) -> Option<Vec<u8>> {
    let before = Before { slot: &slot, seconds: 1, remade: &Default::default() };
    black_box(View { rates: true, ..View::default() }.of(black_box(&slot), Some(before)))
}

const STAT: &[u8] =
    b"4242 (a (long) name) S 1 4242 4242 0 -1 4194560 2102 0 5 0 12 7 0 0 20 0 3 0 8123456 170659840 3012 \
18446744073709551615 1 1 0 0 0 0 0 4096 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n";

#[library_benchmark]
fn parse_stat() -> usize {
    (0..1000).filter(|_| procs::parse_stat(black_box(STAT)).is_some()).count()
}

library_benchmark_group!(name = parts; benchmarks = parse, plan, render_slot, narrow, rates, parse_stat);
main!(library_benchmark_groups = parts);
