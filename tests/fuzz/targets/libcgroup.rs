//! cgconfig.conf and cgrules.conf become a document that is taken, or are refused with their line.
#![no_main]

use cgrove_core::document::{LibcgroupFile, from_libcgroup, parse, to_by_group};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (first, second) = text.split_once("\n---\n").unwrap_or((text, ""));
    let files = [LibcgroupFile { name: "a", text: first }, LibcgroupFile { name: "b", text: second }];
    if let Ok((desired, _)) = from_libcgroup(&files) {
        let json = serde_json::to_vec(&to_by_group(&desired).0).expect("JSON");
        if let Err(e) = parse(&json) {
            panic!("{e}: {}", String::from_utf8_lossy(&json));
        }
    }
});
