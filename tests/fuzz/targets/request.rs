//! A client's request is understood or refused with words, and its range of slots never reaches beyond what is kept.
#![no_main]

use cgrove_core::request::Request;
use cgrove_core::usage::narrow;
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // A second text is what Redis gave for a slot.
    let (message, stored) = text.split_once('\n').unwrap_or((text, ""));
    match Request::parse(message) {
        Err(why) => assert!(!why.is_empty()),
        Ok(Request::ShowAccount { slots, group }) => {
            for (newest, now) in [(None, 1_800_000_000), (Some(1_799_999_990), 1_800_000_000), (Some(1_800_003_600), 1_800_000_000), (None, 3)] {
                let (first, last) = slots.within(newest, now, 300);
                assert!(last <= newest.unwrap_or(now).max(now) && (first > last || last - first < 300));
            }
            if let Some(cut) = group.and_then(|group| narrow(stored.as_bytes(), &group)) {
                serde_json::from_slice::<&RawValue>(&cut).expect("what is cut out is JSON");
            }
        }
        Ok(_) => {}
    }
});
