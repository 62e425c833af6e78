//! [`VersionRef`]: a value of `latest` read in place. A scan looks at many; copying each value to
//! decode it would cost more than finding it.

use quorate_proto::Timestamp;
use quorate_txn::apply::ViewError;
use quorate_txn::state::Version;

use super::damaged;

/// A [`Version`] that borrows its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct VersionRef<'a> {
    pub commit_ts: Timestamp,
    pub local_ts: Timestamp,
    pub value: &'a [u8],
}

/// Protobuf tags of `VersionValue`: field number and wire type.
const TAG_COMMIT_TS: u8 = 1 << 3 | 1;
const TAG_LOCAL_TS: u8 = 2 << 3 | 1;
const TAG_VALUE: u8 = 3 << 3 | 2;

impl<'a> VersionRef<'a> {
    /// Understands what [`Version::encode`] writes; an encoding it does not understand is left to
    /// [`Version::decode`] to judge, see [`read_version`].
    fn parse(mut bytes: &'a [u8]) -> Option<Self> {
        let (mut commit_ts, mut local_ts) = (0, 0);
        let mut value: &[u8] = &[];
        while let Some((&tag, rest)) = bytes.split_first() {
            match tag {
                TAG_COMMIT_TS | TAG_LOCAL_TS => {
                    let (number, rest) = rest.split_first_chunk::<8>()?;
                    let slot = if tag == TAG_COMMIT_TS { &mut commit_ts } else { &mut local_ts };
                    *slot = u64::from_le_bytes(*number);
                    bytes = rest;
                }
                TAG_VALUE => {
                    let (len, rest) = varint(rest)?;
                    (value, bytes) = rest.split_at_checked(usize::try_from(len).ok()?)?;
                }
                _ => return None,
            }
        }
        let local_ts = if local_ts == 0 { commit_ts } else { local_ts };
        Some(Self { commit_ts: Timestamp(commit_ts), local_ts: Timestamp(local_ts), value })
    }
}

/// Hands the version to `read`, in place where possible.
pub(super) fn read_version<T>(
    bytes: &[u8],
    read: impl FnOnce(VersionRef<'_>) -> T,
) -> Result<T, ViewError> {
    if let Some(version) = VersionRef::parse(bytes) {
        return Ok(read(version));
    }
    let version = Version::decode(bytes).map_err(damaged("latest"))?;
    Ok(read(VersionRef {
        commit_ts: version.commit_ts,
        local_ts: version.local_ts,
        value: &version.value,
    }))
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0;
    for (i, byte) in bytes.iter().take(9).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((number, &bytes[i + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn version_in_place_is_the_version_decoded(
            commit_ts: u64,
            local_ts: u64,
            value in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let version = Version {
                commit_ts: Timestamp(commit_ts),
                local_ts: Timestamp(local_ts),
                value: Bytes::from(value),
            };
            let bytes = version.encode();
            let decoded = Version::decode(&bytes).expect("just encoded");
            let seen = VersionRef::parse(&bytes).expect("just encoded");
            prop_assert_eq!(seen.commit_ts, decoded.commit_ts);
            prop_assert_eq!(seen.local_ts, decoded.local_ts);
            prop_assert_eq!(seen.value, &decoded.value[..]);
        }

        #[test]
        fn any_bytes_are_refused_or_read_as_decode_reads_them(
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            if let Some(seen) = VersionRef::parse(&bytes) {
                let decoded = Version::decode(&bytes).expect("what parse takes, decode takes");
                prop_assert_eq!(seen.value, &decoded.value[..]);
                prop_assert_eq!(seen.commit_ts, decoded.commit_ts);
            }
        }
    }
}
