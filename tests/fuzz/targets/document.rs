//! A document is refused with words or taken; one that was taken means the same after it was written in its own form.
#![no_main]

use cgrove_core::desired::Form;
use cgrove_core::document::{parse, signature, to_by_controller, to_by_group};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let desired = match parse(data) {
        Ok(desired) => desired,
        Err(e) => {
            assert!(!e.to_string().is_empty());
            return;
        }
    };
    assert!(desired.groups.len() <= 50_000);
    for path in desired.groups.keys() {
        assert!(path.components().all(|name| name != ".." && !name.contains('/') && name.len() <= 128));
    }
    let _ = signature::of(std::str::from_utf8(data).expect("taken documents are UTF-8"));
    let (other, _) = to_by_controller(&desired);
    let _ = parse(&serde_json::to_vec(&other).expect("JSON"));
    let (json, _) = match desired.form {
        Form::ByGroup => to_by_group(&desired),
        Form::ByController => to_by_controller(&desired),
    };
    let text = serde_json::to_vec(&json).expect("JSON");
    if text.len() <= 1 << 20 {
        let again = parse(&text).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&text)));
        let names = |d: &cgrove_core::desired::Desired| d.groups.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&again), names(&desired));
        for (path, group) in &desired.groups {
            assert_eq!(again.groups[path].knobs, group.knobs, "{path}");
        }
    }
});
