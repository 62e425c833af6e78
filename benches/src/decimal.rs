//! Exact decimal numbers for `numeric` parameters and results, in Postgres's binary format.
//!
//! TPC-C's money and rates need at most twelve digits, so 64 bits of scaled integer suffice.

use bytes::{BufMut, BytesMut};
use std::error::Error;
use std::fmt;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

const SIGN_POSITIVE: u16 = 0x0000;
const SIGN_NEGATIVE: u16 = 0x4000;
/// Decimal digits in one group of the wire format.
const GROUP_DIGITS: u32 = 4;
/// The base of the wire format.
const GROUP_BASE: u128 = 10_000;

/// `units / 10^scale`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal {
    units: i64,
    scale: u8,
}

impl Decimal {
    /// An amount of money in hundredths.
    pub fn cents(units: i64) -> Self {
        Self { units, scale: 2 }
    }

    /// A rate (tax, discount) in ten-thousandths.
    pub fn rate(units: i64) -> Self {
        Self { units, scale: 4 }
    }

    /// The value in units of `10^-scale`; `None` if that is not exact or does not fit.
    pub fn units(self, scale: u8) -> Option<i64> {
        if scale >= self.scale {
            let factor = 10_i64.checked_pow(u32::from(scale - self.scale))?;
            self.units.checked_mul(factor)
        } else {
            let factor = 10_i64.checked_pow(u32::from(self.scale - scale))?;
            (self.units % factor == 0).then(|| self.units / factor)
        }
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.units < 0 { "-" } else { "" };
        let width = usize::from(self.scale) + 1;
        let digits = format!("{:0width$}", self.units.unsigned_abs());
        let (whole, fraction) = digits.split_at(digits.len() - usize::from(self.scale));
        let point = if fraction.is_empty() { "" } else { "." };
        write!(f, "{sign}{whole}{point}{fraction}")
    }
}

impl ToSql for Decimal {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let scale = u32::from(self.scale);
        let fraction_groups = scale.div_ceil(GROUP_DIGITS);
        let padding = fraction_groups * GROUP_DIGITS - scale;
        let mut rest = u128::from(self.units.unsigned_abs()) * 10_u128.pow(padding);
        let mut groups = Vec::new();
        while rest > 0 {
            groups.push(u16::try_from(rest % GROUP_BASE)?);
            rest /= GROUP_BASE;
        }
        groups.reverse();
        let weight = i16::try_from(groups.len())? - i16::try_from(fraction_groups)? - 1;
        while groups.last() == Some(&0) {
            groups.pop();
        }
        out.put_u16(u16::try_from(groups.len())?);
        out.put_i16(if groups.is_empty() { 0 } else { weight });
        out.put_u16(if self.units < 0 { SIGN_NEGATIVE } else { SIGN_POSITIVE });
        out.put_u16(u16::from(self.scale));
        for group in groups {
            out.put_u16(group);
        }
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::NUMERIC
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Decimal {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let word = |index: usize| -> Result<u16, Box<dyn Error + Sync + Send>> {
            let bytes = raw.get(index * 2..index * 2 + 2).ok_or("numeric value cut short")?;
            Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
        };
        let group_count = usize::from(word(0)?);
        let weight = i32::from(word(1)?.cast_signed());
        let sign = word(2)?;
        let scale = u8::try_from(word(3)?).map_err(|_| "numeric scale too large")?;
        if sign != SIGN_POSITIVE && sign != SIGN_NEGATIVE {
            return Err("numeric NaN or infinity".into());
        }
        let mut units: i128 = 0;
        for index in 0..group_count {
            let group = i128::from(word(4 + index)?);
            let group_index = i32::try_from(index)?;
            let exponent = 4 * (weight - group_index) + i32::from(scale);
            let part = if exponent >= 0 {
                let factor = 10_i128.checked_pow(exponent.unsigned_abs());
                factor.and_then(|f| f.checked_mul(group)).ok_or("numeric value too large")?
            } else {
                group / 10_i128.pow(exponent.unsigned_abs().min(GROUP_DIGITS))
            };
            units = units.checked_add(part).ok_or("numeric value too large")?;
        }
        if sign == SIGN_NEGATIVE {
            units = -units;
        }
        Ok(Self { units: i64::try_from(units)?, scale })
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::NUMERIC
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(value: Decimal) -> Decimal {
        let mut wire = BytesMut::new();
        value.to_sql(&Type::NUMERIC, &mut wire).expect("encodes");
        Decimal::from_sql(&Type::NUMERIC, &wire).expect("decodes")
    }

    proptest! {
        #[test]
        fn what_is_sent_comes_back(units in any::<i64>(), scale in 0_u8..12) {
            let value = Decimal { units, scale };
            prop_assert_eq!(round_trip(value), value);
        }
    }

    #[test]
    fn wire_bytes_are_postgres_bytes() {
        let mut wire = BytesMut::new();
        Decimal::cents(-1_234_567).to_sql(&Type::NUMERIC, &mut wire).expect("encodes");
        // -12345.67: groups 1, 2345, 6700; weight 1; negative; two digits shown.
        let expected = [0, 3, 0, 1, 0x40, 0, 0, 2, 0, 1, 9, 41, 26, 44];
        assert_eq!(&wire[..], &expected);
    }

    #[test]
    fn shown_like_postgres_shows_it() {
        assert_eq!(Decimal::cents(-5).to_string(), "-0.05");
        assert_eq!(Decimal::cents(30_000_000).to_string(), "300000.00");
        assert_eq!(Decimal::rate(2000).to_string(), "0.2000");
    }

    #[test]
    fn rescaling_is_exact_or_refused() {
        assert_eq!(Decimal::rate(2500).units(2), Some(25));
        assert_eq!(Decimal::rate(2501).units(2), None);
        assert_eq!(Decimal::cents(7).units(4), Some(700));
    }
}
