//! Every key prefix of the one ordered keyspace (design, section 4), and the order-preserving
//! encoding by which user keys sort inside longer keys.
//!
//! `meta 0x01 | system 0x02 | table 0x03 / table id (8) / index id (4) / columns`; ids are
//! big-endian and of fixed width, so keys sort by id and one prefix never contains another's.
//! Columns are encoded by the planner.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

/// The first byte of descriptors and allocators.
pub const META_TAG: u8 = 0x01;
/// The first byte of the catalog and other data of the system.
pub const SYSTEM_TAG: u8 = 0x02;
/// The first byte of rows and index entries.
pub const TABLE_TAG: u8 = 0x03;

/// Where the meta keyspace begins and the database's own keyspace ends downwards.
pub const META_START: &[u8] = &[META_TAG];
/// The first key of the database: system data and all tables lie at or above it.
pub const DB_START: &[u8] = &[SYSTEM_TAG];

const META_RANGE: u8 = 0x01;
const META_ALLOCATOR: u8 = 0x02;
const META_NODE: u8 = 0x03;

/// The descriptor of the range that ends at `end` (exclusive; empty is beyond every key): the
/// first descriptor at or after `meta_range(key)` with a larger end holds `key`.
pub fn meta_range(end: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(end.len() + 3);
    key.put_slice(&[META_TAG, META_RANGE]);
    // Bounds sort by their bytes; the empty end sorts behind them all.
    key.put_u8(if end.is_empty() { 0x02 } else { 0x01 });
    key.put_slice(end);
    key.freeze()
}

/// The next id that was not given out.
pub fn meta_allocator() -> Bytes {
    Bytes::from_static(&[META_TAG, META_ALLOCATOR])
}

/// What is known of a node.
pub fn meta_node(node_id: u64) -> Bytes {
    let mut key = BytesMut::with_capacity(10);
    key.put_slice(&[META_TAG, META_NODE]);
    key.put_u64(node_id);
    key.freeze()
}

/// A part of the system keyspace: `class` is chosen by its owner, `rest` sorts inside it.
pub fn system_key(class: u8, rest: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(rest.len() + 2);
    key.put_slice(&[SYSTEM_TAG, class]);
    key.put_slice(rest);
    key.freeze()
}

/// The prefix of a class of the system keyspace.
pub fn system_prefix(class: u8) -> Bytes {
    system_key(class, &[])
}

/// The prefix of everything a table has: its rows and its indexes.
pub fn table_prefix(table_id: u64) -> Bytes {
    let mut key = BytesMut::with_capacity(9);
    key.put_u8(TABLE_TAG);
    key.put_u64(table_id);
    key.freeze()
}

/// The prefix of one index of a table.
pub fn index_prefix(table_id: u64, index_id: u32) -> Bytes {
    let mut key = BytesMut::with_capacity(13);
    key.put_u8(TABLE_TAG);
    key.put_u64(table_id);
    key.put_u32(index_id);
    key.freeze()
}

/// The table and index a key belongs to; `None` for keys that are no rows or entries.
pub fn table_and_index(key: &[u8]) -> Option<(u64, u32)> {
    let rest = key.strip_prefix(&[TABLE_TAG])?;
    let (table, rest) = rest.split_first_chunk::<8>()?;
    let (index, _) = rest.split_first_chunk::<4>()?;
    Some((u64::from_be_bytes(*table), u32::from_be_bytes(*index)))
}

/// The least key above every key with this prefix; empty (beyond every key) if there is none.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let keep = prefix.iter().rposition(|b| *b != 0xff);
    match keep {
        None => Bytes::new(),
        Some(last) => {
            let mut end = BytesMut::from(&prefix[..=last]);
            end[last] += 1;
            end.freeze()
        }
    }
}

/// The least key above `key`.
pub fn next_key(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

/// Whether `key` lies in `[start, end)`; an empty end is beyond every key.
pub fn in_span(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    key >= start && (end.is_empty() || key < end)
}

/// Bytes that are no key of the kind they were taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} does not decode")]
pub struct KeyError {
    /// The kind of key.
    pub what: &'static str,
}

const ESCAPE: u8 = 0x00;
const ESCAPED_ZERO: u8 = 0xff;
const TERMINATOR: u8 = 0x01;

/// Appends `key` so that longer keys made of it sort by `key` first: `0x00` becomes `0x00 0xff`,
/// the end is `0x00 0x01`.
pub fn put_escaped(out: &mut BytesMut, key: &[u8]) {
    for part in key.split_inclusive(|b| *b == ESCAPE) {
        out.put_slice(part);
        if part.ends_with(&[ESCAPE]) {
            out.put_u8(ESCAPED_ZERO);
        }
    }
    out.put_slice(&[ESCAPE, TERMINATOR]);
}

/// Takes a key written by [`put_escaped`] off the front: the key, and what follows it.
///
/// # Errors
/// [`KeyError`] if the bytes were not written so.
pub fn take_escaped(bytes: &[u8]) -> Result<(Bytes, &[u8]), KeyError> {
    let broken = KeyError { what: "an escaped key" };
    let mut key = BytesMut::with_capacity(bytes.len());
    let mut rest = bytes;
    loop {
        let zero = rest.iter().position(|b| *b == ESCAPE).ok_or(broken)?;
        key.put_slice(&rest[..zero]);
        match rest.get(zero + 1) {
            Some(&ESCAPED_ZERO) => key.put_u8(ESCAPE),
            Some(&TERMINATOR) => return Ok((key.freeze(), &rest[zero + 2..])),
            Some(_) | None => return Err(broken),
        }
        rest = &rest[zero + 2..];
    }
}

/// A key for people: its place in the keyspace, then printable bytes as they are.
pub struct Pretty<'a>(pub &'a [u8]);

impl fmt::Display for Pretty<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest = match (table_and_index(self.0), self.0.first()) {
            (Some((table, index)), _) => {
                write!(f, "/table/{table}/{index}")?;
                if self.0.len() == 13 {
                    return Ok(());
                }
                f.write_str("/")?;
                &self.0[13..]
            }
            (None, Some(&META_TAG)) => {
                f.write_str("/meta/")?;
                &self.0[1..]
            }
            (None, Some(&SYSTEM_TAG)) => {
                f.write_str("/system/")?;
                &self.0[1..]
            }
            (None, _) => self.0,
        };
        write!(f, "{}", rest.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xff), any::<u8>()], 0..12)
    }

    fn escaped(key: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        put_escaped(&mut out, key);
        out.to_vec()
    }

    proptest! {
        #[test]
        fn escaped_keys_keep_their_order_whatever_follows(
            a in key(), b in key(), x in key(), y in key()
        ) {
            let (mut ea, mut eb) = (escaped(&a), escaped(&b));
            ea.extend(&x);
            eb.extend(&y);
            if a != b {
                prop_assert_eq!(ea.cmp(&eb), a.cmp(&b));
            }
        }

        #[test]
        fn escaped_key_comes_back(a in key(), x in key()) {
            let mut bytes = escaped(&a);
            bytes.extend(&x);
            let (back, rest) = take_escaped(&bytes).expect("written by put_escaped");
            prop_assert_eq!(back.as_ref(), a.as_slice());
            prop_assert_eq!(rest, x.as_slice());
        }

        #[test]
        fn any_bytes_decode_or_fail_without_a_panic(bytes in key()) {
            if let Ok((key, rest)) = take_escaped(&bytes) {
                let mut again = escaped(&key);
                again.extend(rest);
                prop_assert_eq!(again, bytes);
            }
        }

        #[test]
        fn prefix_end_is_the_least_key_above_the_prefix(p in key(), k in key()) {
            let end = prefix_end(&p);
            prop_assert_eq!(k.starts_with(&p), in_span(&k, &p, &end));
        }

        #[test]
        fn meta_ranges_sort_by_end_and_the_last_range_is_last(a in key(), b in key()) {
            let order = match (a.is_empty(), b.is_empty()) {
                (false, false) => a.cmp(&b),
                (x, y) => x.cmp(&y),
            };
            prop_assert_eq!(meta_range(&a).cmp(&meta_range(&b)), order);
        }
    }

    /// What is on disk: a change of these bytes needs a new format version.
    #[test]
    fn golden_bytes() {
        assert_eq!(meta_range(b"k").as_ref(), b"\x01\x01\x01k");
        assert_eq!(meta_range(b"").as_ref(), b"\x01\x01\x02");
        assert_eq!(meta_allocator().as_ref(), b"\x01\x02");
        assert_eq!(meta_node(7).as_ref(), b"\x01\x03\0\0\0\0\0\0\0\x07");
        assert_eq!(system_key(5, b"x").as_ref(), b"\x02\x05x");
        assert_eq!(table_prefix(258).as_ref(), b"\x03\0\0\0\0\0\0\x01\x02");
        assert_eq!(index_prefix(1, 2).as_ref(), b"\x03\0\0\0\0\0\0\0\x01\0\0\0\x02");
        assert_eq!(escaped(b"a\0b"), b"a\0\xffb\0\x01");
    }

    #[test]
    fn keys_are_shown_by_their_place() {
        let mut row = index_prefix(7, 1).to_vec();
        row.extend(b"\x80k");
        assert_eq!(Pretty(&row).to_string(), "/table/7/1/\\x80k");
        assert_eq!(Pretty(&index_prefix(7, 1)).to_string(), "/table/7/1");
        assert_eq!(Pretty(b"\x02\x01a").to_string(), "/system/\\x01a");
        assert_eq!(Pretty(b"zz").to_string(), "zz");
        assert_eq!(table_and_index(&row), Some((7, 1)));
        assert_eq!(table_and_index(b"\x03short"), None);
    }
}
