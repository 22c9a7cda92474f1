//! Slots as they lie in Redis: as they are, for cgrouparch's clients, or smaller. Whoever reads sees which by their beginning.

use std::borrow::Cow;
use std::io::Read;

use cgrove_config::Compression;
use serde_json::value::RawValue;

/// Every zstd frame begins so (RFC 8878), and no JSON does.
const FRAME: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Higher levels cost more than they save: docs/performance.md.
const LEVEL: i32 = 1;

/// A slot as it is stored.
pub(super) fn pack(slot: &[u8], compression: Compression) -> Cow<'_, [u8]> {
    match compression {
        Compression::None => slot.into(),
        // Without memory for it, the slot is stored as it is.
        Compression::Zstd => zstd::bulk::compress(slot, LEVEL).map_or(slot.into(), Into::into),
    }
}

/// The slot of a stored value, packed or not, if it is no longer than `most`. What is no JSON object is not ours; it would spoil
/// the answer that it is put into.
pub(super) fn unpack(stored: Vec<u8>, most: usize) -> Unpacked {
    let slot = if stored.starts_with(&FRAME) {
        let mut slot = Vec::new();
        let limit = (most as u64).saturating_add(1);
        let read = zstd::Decoder::with_buffer(&stored[..]).and_then(|packed| packed.take(limit).read_to_end(&mut slot));
        if read.is_err() {
            return Unpacked::Broken;
        }
        slot
    } else {
        stored
    };
    if slot.len() > most {
        return Unpacked::TooLong;
    }
    let object = serde_json::from_slice::<&RawValue>(&slot).is_ok_and(|json| json.get().starts_with('{'));
    if object { Unpacked::Slot(slot) } else { Unpacked::Broken }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unpacked {
    Slot(Vec<u8>),
    TooLong,
    Broken,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_comes_back_and_what_was_not_stays() {
        let slot = format!("{{\"cpu\":[{}0]}}", "{\"value\":{\"usage\":1}},".repeat(1000)).into_bytes();
        for compression in [Compression::None, Compression::Zstd] {
            let stored = pack(&slot, compression).into_owned();
            assert_eq!(stored.len() < slot.len() / 10, compression == Compression::Zstd);
            assert_eq!(unpack(stored.clone(), slot.len()), Unpacked::Slot(slot.clone()));
            assert_eq!(unpack(stored, slot.len() - 1), Unpacked::TooLong);
        }
    }

    #[test]
    fn little_that_becomes_much_is_stopped_and_rubbish_is_no_slot() {
        let bomb = zstd::bulk::compress(&vec![b' '; 64 << 20], 19).unwrap();
        assert!(bomb.len() < 10_000);
        assert_eq!(unpack(bomb.clone(), 1 << 20), Unpacked::TooLong);
        let cut = bomb.get(..bomb.len() / 2).unwrap().to_vec();
        assert_eq!(unpack(cut.clone(), 128 << 20), Unpacked::Broken);
        // Not read to where it is cut.
        assert_eq!(unpack(cut, 1 << 20), Unpacked::TooLong);
        assert_eq!(unpack(b"[]".to_vec(), 100), Unpacked::Broken);
        assert_eq!(unpack([&FRAME[..], b"rubbish"].concat(), 100), Unpacked::Broken);
    }
}
