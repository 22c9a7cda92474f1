//! A client's request is understood or refused with words, its range of slots never reaches beyond what is kept, and
//! whatever is seen of a stored slot is JSON.
#![no_main]

use std::collections::HashSet;

use cgrove_core::request::{Asked, Request, Slots, Topic};
use cgrove_core::usage::{Before, View};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // Second and third texts are what Redis gave for two slots.
    let mut texts = text.splitn(3, '\n');
    let (message, stored, earlier) = (texts.next().unwrap_or(""), texts.next().unwrap_or(""), texts.next().unwrap_or(""));
    match Asked::parse(message).request {
        Err(why) => assert!(!why.is_empty()),
        Ok(Request::ShowAccount { slots, view, .. }) => {
            ranges(slots);
            see(&view, stored, earlier);
        }
        Ok(Request::Subscribe(Topic::Slots(view))) => see(&view, stored, earlier),
        Ok(_) => {}
    }
    let (cmd, query) = message.split_once('?').unwrap_or((message, ""));
    let _ = Request::of_query(cmd, query.split('&').filter_map(|pair| pair.split_once('=')));
});

fn ranges(slots: Slots) {
    for (newest, now) in [(None, 1_800_000_000), (Some(1_799_999_990), 1_800_000_000), (Some(1_800_003_600), 1_800_000_000), (None, 3)] {
        let (first, last) = slots.within(newest, now, 300);
        assert!(last <= newest.unwrap_or(now).max(now) && (first > last || last - first < 300));
        assert!(slots.wanted(first, last).all(|slot| (first..=last).contains(&slot)));
    }
}

fn see(view: &View, stored: &str, earlier: &str) {
    let remade = HashSet::new();
    for before in [None, Some(Before { slot: earlier.as_bytes(), seconds: 1, remade: &remade })] {
        if let Some(seen) = view.of(stored.as_bytes(), before) {
            serde_json::from_slice::<&RawValue>(&seen).expect("what is seen is JSON");
        }
    }
}
