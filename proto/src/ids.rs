//! Newtypes for ids and timestamps. On the wire they are plain numbers and bytes; inside they
//! never mix.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[derive(serde::Serialize, serde::Deserialize)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

number_id!(
    /// A process with storage; 0 is never given out.
    NodeId,
    "n"
);
number_id!(
    /// A range, that is a Raft group; 0 is never given out.
    RangeId,
    "r"
);
number_id!(
    /// A replica of a range; never reused (rule L7).
    PeerId,
    "p"
);

/// A 128-bit transaction id. Ids are random and carry no order in time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TxnId(pub u128);

impl TxnId {
    /// The 16 big-endian bytes that travel.
    pub fn to_bytes(self) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_be_bytes())
    }

    /// `None` unless there are exactly 16 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(u128::from_be_bytes(bytes.try_into().ok()?)))
    }
}

impl fmt::Display for TxnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{:x}", self.0)
    }
}

impl fmt::Debug for TxnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A reading of some node's hybrid logical clock (rule T1), in NTP64 format: the upper 32 bits
/// are seconds since 1970, the lower 32 bits a binary fraction of a second. 0 means *none*.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Before every reading of a clock.
    pub const ZERO: Self = Self(0);
    /// After every reading of a clock.
    pub const MAX: Self = Self(u64::MAX);

    /// The reading for a time since 1970; saturates in the year 2106.
    pub fn from_duration(since_1970: Duration) -> Self {
        let secs = u32::try_from(since_1970.as_secs()).unwrap_or(u32::MAX);
        let fraction = (u64::from(since_1970.subsec_nanos()) << 32) / 1_000_000_000;
        Self((u64::from(secs) << 32) | fraction)
    }

    /// The time since 1970, rounded down to a nanosecond.
    pub fn to_duration(self) -> Duration {
        let nanos = ((self.0 & 0xffff_ffff) * 1_000_000_000) >> 32;
        Duration::new(self.0 >> 32, u32::try_from(nanos).unwrap_or(999_999_999))
    }

    /// The bound `self + span` of a window. A bound is compared with, never stored as an event's
    /// time (rule T1).
    pub fn bound_after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(Self::from_duration(span).0))
    }

    /// The bound `self − span` of a window.
    pub fn bound_before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(Self::from_duration(span).0))
    }

    /// The least timestamp above this one: where a version that starts after it is looked for.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Whether this is no reading at all.
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}.{:08x}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn timestamp_survives_duration_within_a_nanosecond(secs in 0u64..4_000_000_000,
                                                           nanos in 0u32..1_000_000_000) {
            let d = Duration::new(secs, nanos);
            let back = Timestamp::from_duration(d).to_duration();
            prop_assert!(back <= d && d - back <= Duration::from_nanos(1));
        }

        #[test]
        fn txn_id_survives_bytes(n in any::<u128>()) {
            prop_assert_eq!(TxnId::from_bytes(&TxnId(n).to_bytes()), Some(TxnId(n)));
        }
    }

    #[test]
    fn txn_id_refuses_other_lengths() {
        assert_eq!(TxnId::from_bytes(&[0; 15]), None);
        assert_eq!(TxnId::from_bytes(&[0; 17]), None);
    }
}
