//! Slots as they lie in Redis: as they are, for cgrouparch's clients, or smaller. Whoever reads sees which by their beginning.

use std::borrow::Cow;
use std::io::Read;

use cgrove_config::Compression;

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

/// What a stored value was, if it is no longer than `most`; whatever was not packed is as it is.
pub(super) fn unpack(stored: Vec<u8>, most: usize) -> Unpacked {
    if !stored.starts_with(&FRAME) {
        return if stored.len() <= most { Unpacked::Slot(stored) } else { Unpacked::TooLong };
    }
    let mut slot = Vec::new();
    let limit = (most as u64).saturating_add(1);
    match zstd::Decoder::with_buffer(&stored[..]).and_then(|packed| packed.take(limit).read_to_end(&mut slot)) {
        Ok(_) if slot.len() > most => Unpacked::TooLong,
        Ok(_) => Unpacked::Slot(slot),
        Err(_) => Unpacked::Broken,
    }
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
        let slot = br#"{"cpu":{"value":{"usage":1}}}"#.repeat(1000);
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
        assert_eq!(unpack(cut, 128 << 20), Unpacked::Broken);
        assert_eq!(unpack([&FRAME[..], b"rubbish"].concat(), 100), Unpacked::Broken);
    }
}
