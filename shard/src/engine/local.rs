//! The keys of [`Cf::Local`](super::Cf::Local): what a node knows and no range's keyspace holds.

use quorate_proto::RangeId;

/// The format version of the folder: a big-endian `u32`.
pub const FORMAT_KEY: &[u8] = b"format";

const RANGE_STATE: u8 = 0x01;
const OTHER: u8 = 0x02;

/// Where the encoded `RangeState` of a range is kept.
pub fn range_state_key(range: RangeId) -> [u8; 9] {
    let mut key = [RANGE_STATE; 9];
    key[1..].copy_from_slice(&range.0.to_be_bytes());
    key
}

/// The bounds `[lower, upper)` of all keys of range states.
pub fn range_state_bounds() -> ([u8; 1], [u8; 1]) {
    ([RANGE_STATE], [RANGE_STATE + 1])
}

/// The range of a key of a range state; `None` for any other key.
pub fn decode_range_state_key(key: &[u8]) -> Option<RangeId> {
    let (&RANGE_STATE, id) = key.split_first()? else {
        return None;
    };
    Some(RangeId(u64::from_be_bytes(id.try_into().ok()?)))
}

/// A key for something else that belongs to the node, by name.
pub fn named_key(name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + name.len());
    key.push(OTHER);
    key.extend_from_slice(name.as_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_state_keys_lie_within_their_bounds_and_decode() {
        let (lower, upper) = range_state_bounds();
        for id in [0, 1, 255, 256, u64::MAX] {
            let key = range_state_key(RangeId(id));
            assert!(lower.as_slice() <= key.as_slice() && key.as_slice() < upper.as_slice());
            assert_eq!(decode_range_state_key(&key), Some(RangeId(id)));
        }
        assert_eq!(decode_range_state_key(FORMAT_KEY), None);
        assert_eq!(decode_range_state_key(&named_key("x")), None);
        assert_eq!(decode_range_state_key(&[RANGE_STATE, 1]), None);
    }
}
