//! The content of a pid file: a pid above 1, or words.
#![no_main]

use cgrove_core::placement::parse_pid;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match parse_pid(data) {
        Ok(pid) => {
            assert!(pid > 1);
            let line = data.split(|b| *b == b'\n').next().unwrap_or_default();
            let text = std::str::from_utf8(line).expect("a number is UTF-8").trim();
            assert!(text.bytes().all(|b| b.is_ascii_digit()) && text.parse() == Ok(pid));
        }
        Err(why) => assert!(!why.is_empty()),
    }
});
