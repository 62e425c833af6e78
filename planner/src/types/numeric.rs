//! `numeric` without limits: an exact decimal number and how many digits after the point it shows.
//!
//! PostgreSQL keeps a display scale with every value (`1.50` is not shown as `1.5`), so a column
//! of them cannot be an Arrow decimal, whose scale belongs to the column. Such values lie in
//! `LargeBinary` arrays: an order-preserving key (equal numbers have equal keys, whatever they
//! show) followed by the display scale in two bytes. [`key_of`] is the part to compare, group and
//! join by. Up to [`DIGITS_MAX`] digits are kept; more are refused with `0A000`.

use std::cmp::Ordering;

use datafusion::arrow::datatypes::i256;

use crate::error::{SqlError, SqlResult, SqlState};

/// Decimal digits a value may have.
pub const DIGITS_MAX: usize = 76;

/// Significant digits a quotient has at least (PostgreSQL's `NUMERIC_MIN_SIG_DIGITS`).
const QUOTIENT_DIGITS_MIN: i32 = 16;

/// Digits after the point a value shows at most.
const SCALE_MAX: i32 = 1000;

const TAG_NEGATIVE_INFINITY: u8 = 0x10;
const TAG_NEGATIVE: u8 = 0x20;
const TAG_ZERO: u8 = 0x30;
const TAG_POSITIVE: u8 = 0x40;
const TAG_INFINITY: u8 = 0x50;
const TAG_NAN: u8 = 0x60;

/// A value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numeric {
    /// Below every number.
    NegativeInfinity,
    /// `mantissa / 10^scale`, shown with `scale` digits after the point.
    Finite {
        /// All digits.
        mantissa: i256,
        /// How many of them are after the point.
        scale: u16,
    },
    /// Above every number.
    Infinity,
    /// Equal to itself and above everything, as PostgreSQL orders it.
    NaN,
}

use Numeric::{Finite, Infinity, NaN, NegativeInfinity};

fn too_long() -> SqlError {
    SqlError::unsupported(format_args!("a numeric of more than {DIGITS_MAX} digits"))
}

/// The error for a number outside a type's range.
pub fn out_of_range(what: &str) -> SqlError {
    SqlError::new(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, format!("{what} out of range"))
}

/// The error for a division by zero.
pub fn division_by_zero() -> SqlError {
    SqlError::new(SqlState::DIVISION_BY_ZERO, "division by zero")
}

fn power_of_ten(n: u32) -> SqlResult<i256> {
    i256::from_i128(10).checked_pow(n).ok_or_else(too_long)
}

fn digits_of(mantissa: i256) -> String {
    match mantissa.to_i128() {
        Some(small) => small.unsigned_abs().to_string(),
        None => mantissa.to_string().trim_start_matches('-').to_owned(),
    }
}

impl Numeric {
    /// Zero without digits after the point.
    pub const ZERO: Self = Finite { mantissa: i256::ZERO, scale: 0 };

    /// `mantissa / 10^scale`.
    pub fn of_decimal(mantissa: i128, scale: i8) -> Self {
        Finite { mantissa: i256::from_i128(mantissa), scale: u16::try_from(scale).unwrap_or(0) }
    }

    /// An integer.
    pub fn of_int(value: i64) -> Self {
        Self::of_decimal(i128::from(value), 0)
    }

    /// From text, as PostgreSQL reads it.
    pub fn parse(text: &str) -> SqlResult<Self> {
        let invalid = || {
            SqlError::new(
                SqlState::INVALID_TEXT_REPRESENTATION,
                format!("invalid input syntax for type numeric: \"{text}\""),
            )
        };
        let body = text.trim_matches(|c: char| c.is_ascii_whitespace());
        let (negative, body) = match body.strip_prefix(['-', '+']) {
            Some(rest) => (body.starts_with('-'), rest),
            None => (false, body),
        };
        match body.to_ascii_lowercase().as_str() {
            "nan" if body.len() == text.trim().len() => return Ok(NaN),
            "inf" | "infinity" => {
                return Ok(if negative { NegativeInfinity } else { Infinity });
            }
            _ => {}
        }
        let (number, exponent) = match body.split_once(['e', 'E']) {
            Some((number, exponent)) => {
                let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
                if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(invalid());
                }
                (number, exponent.parse::<i32>().map_err(|_| invalid())?)
            }
            None => (body, 0),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.len() + fraction.len() == 0 || !all_digits(whole) || !all_digits(fraction) {
            return Err(invalid());
        }
        let scale = i32::try_from(fraction.len()).map_err(|_| too_long())?.saturating_sub(exponent);
        let digits = format!("{whole}{fraction}");
        Self::from_digits(negative, digits.trim_start_matches('0'), scale)
    }

    /// `digits / 10^scale`; a negative scale appends zeros.
    fn from_digits(negative: bool, digits: &str, scale: i32) -> SqlResult<Self> {
        if !(-SCALE_MAX..=SCALE_MAX * 16).contains(&scale) {
            return Err(SqlError::new(
                SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
                "value overflows numeric format",
            ));
        }
        let zeros = usize::try_from(-scale).unwrap_or(0);
        if !digits.is_empty() && digits.len() + zeros > DIGITS_MAX {
            return Err(too_long());
        }
        let text = if digits.is_empty() { "0".to_owned() } else { digits.to_owned() };
        let mut mantissa = match text.parse::<i128>() {
            Ok(small) => i256::from_i128(small),
            Err(_) => i256::from_string(&text).ok_or_else(too_long)?,
        };
        if zeros > 0 && mantissa != i256::ZERO {
            mantissa = mantissa.checked_mul(power_of_ten(zeros as u32)?).ok_or_else(too_long)?;
        }
        if negative {
            mantissa = mantissa.wrapping_neg();
        }
        Ok(Finite { mantissa, scale: u16::try_from(scale.max(0)).map_err(|_| too_long())? })
    }

    /// Text, as PostgreSQL writes it.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            NaN => out.extend_from_slice(b"NaN"),
            Infinity => out.extend_from_slice(b"Infinity"),
            NegativeInfinity => out.extend_from_slice(b"-Infinity"),
            Finite { mantissa, scale } => {
                write_digits(mantissa.is_negative(), &digits_of(*mantissa), *scale, out);
            }
        }
    }

    /// The number as a mantissa of exactly `scale` digits after the point, rounded half away from
    /// zero; `None` for infinities and NaN.
    pub fn mantissa_at(&self, scale: u16) -> SqlResult<Option<i256>> {
        match self.round(i32::from(scale))? {
            Finite { mantissa, .. } => Ok(Some(mantissa)),
            _ => Ok(None),
        }
    }

    /// As `numeric(p,s)`: rounded, and refused if it has too many digits before the point.
    pub fn to_decimal(self, precision: u8, scale: i8) -> SqlResult<i128> {
        let digits = u16::try_from(scale).unwrap_or(0);
        let Some(mantissa) = self.mantissa_at(digits)? else {
            if self == NaN {
                return Err(SqlError::unsupported("NaN in a numeric with a precision"));
            }
            return Err(overflow(precision, scale).with_detail(format!(
                "A field with precision {precision}, scale {scale} cannot hold an infinite value."
            )));
        };
        let limit = i256::from_i128(10i128.pow(u32::from(precision)));
        if mantissa >= limit || mantissa <= limit.wrapping_neg() {
            let whole = i32::from(precision) - i32::from(scale);
            let bound = if whole == 0 { "1".to_owned() } else { format!("10^{whole}") };
            return Err(overflow(precision, scale).with_detail(format!(
                "A field with precision {precision}, scale {scale} must round to an absolute \
                 value less than {bound}."
            )));
        }
        mantissa.to_i128().ok_or_else(|| overflow(precision, scale))
    }

    /// Rounded half away from zero to `digits` after (negative: before) the point.
    pub fn round(&self, digits: i32) -> SqlResult<Self> {
        self.rescale(digits, true)
    }

    /// Cut off `digits` after the point.
    pub fn trunc(&self, digits: i32) -> SqlResult<Self> {
        self.rescale(digits, false)
    }

    fn rescale(&self, digits: i32, rounding: bool) -> SqlResult<Self> {
        let Finite { mantissa, scale } = *self else { return Ok(*self) };
        let digits = digits.clamp(-2 * SCALE_MAX, 2 * SCALE_MAX);
        let shown = u16::try_from(digits.max(0)).map_err(|_| too_long())?;
        let add = digits - i32::from(scale);
        if add >= 0 {
            if mantissa == i256::ZERO {
                return Ok(Finite { mantissa, scale: shown });
            }
            let factor = power_of_ten(add as u32)?;
            let mantissa = mantissa.checked_mul(factor).ok_or_else(too_long)?;
            return Ok(Finite { mantissa, scale: shown });
        }
        let cut = (-add) as u32;
        let mut rounded = if cut as usize > DIGITS_MAX {
            i256::ZERO
        } else {
            let factor = power_of_ten(cut)?;
            divide(mantissa, factor, rounding)
        };
        if digits < 0 {
            rounded =
                rounded.checked_mul(power_of_ten(digits.unsigned_abs())?).ok_or_else(too_long)?;
        }
        Ok(Finite { mantissa: rounded, scale: shown })
    }

    /// The least whole number not below (`up`) or the greatest not above the value.
    pub fn whole(&self, up: bool) -> SqlResult<Self> {
        let Finite { mantissa, .. } = *self else { return Ok(*self) };
        let cut = self.trunc(0)?;
        if cut.compare(self) == Ordering::Equal || mantissa.is_negative() == up {
            return Ok(cut);
        }
        let one = Self::of_int(if up { 1 } else { -1 });
        cut.add(&one)
    }

    fn aligned(&self, other: &Self) -> SqlResult<Option<(i256, i256, u16)>> {
        match (self, other) {
            (Finite { scale: a, .. }, Finite { scale: b, .. }) => {
                let scale = *a.max(b);
                let at = |n: &Self| n.mantissa_at(scale);
                Ok(at(self)?.zip(at(other)?).map(|(a, b)| (a, b, scale)))
            }
            _ => Ok(None),
        }
    }

    /// The sum.
    pub fn add(&self, other: &Self) -> SqlResult<Self> {
        if let Some((a, b, scale)) = self.aligned(other)? {
            return Ok(Finite { mantissa: a.checked_add(b).ok_or_else(too_long)?, scale });
        }
        Ok(match (self, other) {
            (NaN, _) | (_, NaN) => NaN,
            (Infinity, NegativeInfinity) | (NegativeInfinity, Infinity) => NaN,
            (Finite { .. }, infinite) => *infinite,
            (infinite, _) => *infinite,
        })
    }

    /// The value with the other sign.
    #[must_use]
    pub fn neg(&self) -> Self {
        match *self {
            NaN => NaN,
            Infinity => NegativeInfinity,
            NegativeInfinity => Infinity,
            Finite { mantissa, scale } => Finite { mantissa: mantissa.wrapping_neg(), scale },
        }
    }

    /// −1, 0 or 1; `None` for NaN.
    pub fn sign(&self) -> Option<i32> {
        match self {
            NaN => None,
            Infinity => Some(1),
            NegativeInfinity => Some(-1),
            Finite { mantissa, .. } => Some(match mantissa.cmp(&i256::ZERO) {
                Ordering::Less => -1,
                Ordering::Equal => 0,
                Ordering::Greater => 1,
            }),
        }
    }

    /// The product.
    pub fn mul(&self, other: &Self) -> SqlResult<Self> {
        if let (Finite { mantissa: a, scale: s }, Finite { mantissa: b, scale: t }) = (self, other)
        {
            return Ok(Finite { mantissa: a.checked_mul(*b).ok_or_else(too_long)?, scale: s + t });
        }
        Ok(match (self.sign(), other.sign()) {
            (Some(a), Some(b)) if a * b > 0 => Infinity,
            (Some(a), Some(b)) if a * b < 0 => NegativeInfinity,
            _ => NaN,
        })
    }

    /// The quotient, with as many digits as PostgreSQL gives it.
    pub fn div(&self, other: &Self) -> SqlResult<Self> {
        let (Finite { mantissa: a, scale: s }, Finite { mantissa: b, scale: t }) = (self, other)
        else {
            return Ok(match (self, other) {
                (NaN, _) | (_, NaN) => NaN,
                (Finite { .. }, _) => Self::ZERO,
                (_, Finite { .. }) => match self.sign().zip(other.sign()) {
                    Some((_, 0)) => return Err(division_by_zero()),
                    Some((a, b)) if a * b > 0 => Infinity,
                    _ => NegativeInfinity,
                },
                _ => NaN,
            });
        };
        if *b == i256::ZERO {
            return Err(division_by_zero());
        }
        let (w1, f1) = self.leading_group();
        let (w2, f2) = other.leading_group();
        let weight = w1 - w2 - i32::from(f1 <= f2);
        let scale = (QUOTIENT_DIGITS_MIN - weight * 4)
            .max(i32::from(*s))
            .max(i32::from(*t))
            .clamp(0, SCALE_MAX);
        let shift = scale + i32::from(*t) - i32::from(*s);
        let mantissa = scaled_quotient(*a, *b, shift)?;
        Ok(Finite { mantissa, scale: scale as u16 })
    }

    /// The remainder; it has the sign of the dividend.
    pub fn rem(&self, other: &Self) -> SqlResult<Self> {
        if other.sign() == Some(0) && *self != NaN {
            return Err(division_by_zero());
        }
        match self.aligned(other)? {
            Some((a, b, scale)) => Ok(Finite { mantissa: a.wrapping_rem(b), scale }),
            None => match (self, other) {
                (Finite { .. }, Infinity | NegativeInfinity) => Ok(*self),
                _ => Ok(NaN),
            },
        }
    }

    /// The weight of the first group of four digits, and the group: what PostgreSQL's choice of a
    /// quotient's scale looks at.
    fn leading_group(&self) -> (i32, u32) {
        let Finite { mantissa, scale } = self else { return (0, 0) };
        if *mantissa == i256::ZERO {
            return (0, 0);
        }
        let digits = digits_of(*mantissa);
        let before_point = digits.len() as i32 - i32::from(*scale);
        let weight = (before_point - 1).div_euclid(4);
        let width = (before_point - 1).rem_euclid(4) + 1;
        let group = (0..width as usize)
            .map(|i| digits.as_bytes().get(i).map_or(0, |b| u32::from(b - b'0')))
            .fold(0, |group, digit| group * 10 + digit);
        (weight, group)
    }

    /// The order of PostgreSQL: NaN equals itself and is above all.
    pub fn compare(&self, other: &Self) -> Ordering {
        match self.aligned(other) {
            Ok(Some((a, b, _))) => a.cmp(&b),
            _ => self.key().cmp(&other.key()),
        }
    }

    /// As `bigint`, rounded half away from zero; `None` if it does not fit.
    pub fn to_i64(self) -> SqlResult<Option<i64>> {
        if self == NaN {
            return Err(SqlError::unsupported("conversion of NaN to an integer"));
        }
        let whole = self.mantissa_at(0)?;
        Ok(whole.and_then(|m| m.to_i128()).and_then(|m| i64::try_from(m).ok()))
    }

    /// As `double precision`, the nearest one.
    pub fn to_f64(self) -> f64 {
        match self {
            NaN => f64::NAN,
            Infinity => f64::INFINITY,
            NegativeInfinity => f64::NEG_INFINITY,
            Finite { .. } => {
                let mut text = Vec::new();
                self.write(&mut text);
                String::from_utf8_lossy(&text).parse().unwrap_or(f64::NAN)
            }
        }
    }

    /// From a float, with the digits PostgreSQL takes: 15 for `double precision`, 6 for `real`.
    pub fn of_f64(value: f64, digits: usize) -> SqlResult<Self> {
        if value.is_nan() {
            return Ok(NaN);
        }
        if value.is_infinite() {
            return Ok(if value > 0.0 { Infinity } else { NegativeInfinity });
        }
        let text = format!("{:.*e}", digits - 1, value);
        let Some((number, exponent)) = text.split_once('e') else {
            return Err(SqlError::internal("a float without exponent"));
        };
        // `%.15g` drops zeros at the end.
        let number = match number.contains('.') {
            true => number.trim_end_matches('0').trim_end_matches('.'),
            false => number,
        };
        Self::parse(&format!("{number}e{exponent}"))
    }

    /// The square root with the digits PostgreSQL shows.
    pub fn sqrt(&self) -> SqlResult<Self> {
        let Finite { mantissa, scale } = *self else {
            return match self {
                NegativeInfinity => Err(negative_root()),
                other => Ok(*other),
            };
        };
        if mantissa.is_negative() {
            return Err(negative_root());
        }
        // PostgreSQL estimates the weight of the result's first group to be half the argument's.
        let (weight, _) = self.leading_group();
        let result_weight = if weight >= 0 { weight * 2 + 1 } else { 1 - (1 - weight * 2) };
        let shown = (QUOTIENT_DIGITS_MIN - result_weight).max(i32::from(scale)).clamp(0, SCALE_MAX);
        self.sqrt_to(shown)
    }

    /// The square root with this many digits after the point.
    pub fn sqrt_to(&self, shown: i32) -> SqlResult<Self> {
        let Finite { mantissa, scale } = *self else { return Ok(*self) };
        let exponent = 2 * (shown + 1) - i32::from(scale);
        let radicand =
            mantissa.checked_mul(power_of_ten(exponent.max(0) as u32)?).ok_or_else(too_long)?;
        let root = integer_root(radicand);
        Finite { mantissa: root, scale: (shown + 1) as u16 }.round(shown)
    }

    /// The bytes that order as the numbers do.
    pub fn key(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        self.write_key(&mut out);
        out
    }

    /// Appends [`Numeric::key`].
    pub fn write_key(&self, out: &mut Vec<u8>) {
        let (mantissa, scale) = match self {
            NegativeInfinity => return out.push(TAG_NEGATIVE_INFINITY),
            Infinity => return out.push(TAG_INFINITY),
            NaN => return out.push(TAG_NAN),
            Finite { mantissa, .. } if *mantissa == i256::ZERO => return out.push(TAG_ZERO),
            Finite { mantissa, scale } => (*mantissa, *scale),
        };
        let negative = mantissa.is_negative();
        out.push(if negative { TAG_NEGATIVE } else { TAG_POSITIVE });
        let start = out.len();
        let digits = digits_of(mantissa);
        let exponent = digits.len() as i32 - i32::from(scale);
        out.extend_from_slice(&((exponent + 0x8000) as u16).to_be_bytes());
        for pair in digits.trim_end_matches('0').as_bytes().chunks(2) {
            let low = pair.get(1).map_or(0, |b| b - b'0');
            out.push((pair[0] - b'0') * 10 + low + 1);
        }
        out.push(0);
        if negative {
            out[start..].iter_mut().for_each(|b| *b = !*b);
        }
    }

    /// The bytes of a value in an array: its key and the digits it shows.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut out = self.key();
        let scale = if let Finite { scale, .. } = self { scale } else { 0 };
        out.extend_from_slice(&scale.to_be_bytes());
        out
    }

    /// A value from what [`Numeric::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> SqlResult<Self> {
        let corrupt = || SqlError::corrupt("bytes that are no numeric");
        let (key, scale) = bytes.split_last_chunk::<2>().ok_or_else(corrupt)?;
        let (value, used) = Self::read_key(key, Some(u16::from_be_bytes(*scale)))?;
        if used != key.len() {
            return Err(corrupt());
        }
        Ok(value)
    }

    /// A value from a key and how long the key is. It shows `scale` digits, or as few as it can.
    pub fn read_key(bytes: &[u8], scale: Option<u16>) -> SqlResult<(Self, usize)> {
        let corrupt = || SqlError::corrupt("bytes that are no numeric key");
        let shown = scale.unwrap_or(0);
        let negative = match bytes.first() {
            Some(&TAG_NEGATIVE_INFINITY) => return Ok((NegativeInfinity, 1)),
            Some(&TAG_INFINITY) => return Ok((Infinity, 1)),
            Some(&TAG_NAN) => return Ok((NaN, 1)),
            Some(&TAG_ZERO) => return Ok((Finite { mantissa: i256::ZERO, scale: shown }, 1)),
            Some(&TAG_NEGATIVE) => true,
            Some(&TAG_POSITIVE) => false,
            _ => return Err(corrupt()),
        };
        let flip = |b: u8| if negative { !b } else { b };
        let (Some(high), Some(low)) = (bytes.get(1), bytes.get(2)) else { return Err(corrupt()) };
        let exponent = i32::from(u16::from_be_bytes([flip(*high), flip(*low)])) - 0x8000;
        let mut digits = String::new();
        let mut used = 3;
        loop {
            match bytes.get(used).map(|b| flip(*b)) {
                Some(0) => break,
                Some(pair @ 1..=100) => {
                    digits.push(char::from(b'0' + (pair - 1) / 10));
                    digits.push(char::from(b'0' + (pair - 1) % 10));
                }
                _ => return Err(corrupt()),
            }
            used += 1;
        }
        let digits = digits.trim_end_matches('0');
        let least = digits.len() as i32 - exponent;
        let value = Self::from_digits(negative, digits, least).map_err(|_| corrupt())?;
        let value = match scale {
            Some(scale) if i32::from(scale) < least => return Err(corrupt()),
            Some(scale) => value.round(i32::from(scale)).map_err(|_| corrupt())?,
            None => value,
        };
        Ok((value, used + 1))
    }
}

/// The part of an array's bytes to compare, group and join by.
pub fn key_of(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().saturating_sub(2)]
}

fn overflow(_precision: u8, _scale: i8) -> SqlError {
    SqlError::new(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "numeric field overflow")
}

fn negative_root() -> SqlError {
    SqlError::new(
        SqlState::INVALID_ARGUMENT_FOR_POWER,
        "cannot take square root of a negative number",
    )
}

fn divide(a: i256, b: i256, rounding: bool) -> i256 {
    let quotient = a.wrapping_div(b);
    let rest = a.wrapping_rem(b).wrapping_abs();
    let size = b.wrapping_abs();
    if rounding && rest >= size.wrapping_sub(rest) && rest != i256::ZERO {
        let away = if a.is_negative() == b.is_negative() { i256::ONE } else { i256::MINUS_ONE };
        return quotient.wrapping_add(away);
    }
    quotient
}

/// `a × 10^shift ÷ b`, rounded half away from zero, without an overflow on the way.
fn scaled_quotient(a: i256, b: i256, shift: i32) -> SqlResult<i256> {
    if shift <= 0 {
        let factor = power_of_ten(shift.unsigned_abs())?;
        return Ok(divide(a, b.checked_mul(factor).ok_or_else(too_long)?, true));
    }
    if let Some(scaled) = power_of_ten(shift as u32).ok().and_then(|f| a.checked_mul(f)) {
        return Ok(divide(scaled, b, true));
    }
    let ten = i256::from_i128(10);
    let (mut quotient, mut rest) = (a.wrapping_div(b), a.wrapping_rem(b));
    for _ in 0..shift {
        rest = rest.checked_mul(ten).ok_or_else(too_long)?;
        quotient = quotient
            .checked_mul(ten)
            .and_then(|q| q.checked_add(rest.wrapping_div(b)))
            .ok_or_else(too_long)?;
        rest = rest.wrapping_rem(b);
    }
    let twice = rest.wrapping_abs();
    if twice != i256::ZERO && twice >= b.wrapping_abs().wrapping_sub(twice) {
        let away = if a.is_negative() == b.is_negative() { i256::ONE } else { i256::MINUS_ONE };
        quotient = quotient.wrapping_add(away);
    }
    Ok(quotient)
}

/// The greatest whole number whose square is not above `n` (Newton's method).
fn integer_root(n: i256) -> i256 {
    if n <= i256::ONE {
        return n;
    }
    let two = i256::from_i128(2);
    let half = (digits_of(n).len() as u32).div_ceil(2);
    let mut x = i256::from_i128(10).wrapping_pow(half);
    loop {
        let next = x.wrapping_add(n.wrapping_div(x)).wrapping_div(two);
        if next >= x {
            return x;
        }
        x = next;
    }
}

/// Writes digits with a point before the last `scale` of them.
fn write_digits(negative: bool, digits: &str, scale: u16, out: &mut Vec<u8>) {
    let scale = usize::from(scale);
    if negative {
        out.push(b'-');
    }
    let whole = digits.len().saturating_sub(scale);
    if whole == 0 {
        out.push(b'0');
    } else {
        out.extend_from_slice(&digits.as_bytes()[..whole]);
    }
    if scale > 0 {
        out.push(b'.');
        out.resize(out.len() + scale.saturating_sub(digits.len()), b'0');
        out.extend_from_slice(&digits.as_bytes()[whole..]);
    }
}

/// Writes a `numeric(p,s)` from an Arrow decimal.
pub fn write_decimal(mantissa: i128, scale: i8, out: &mut Vec<u8>) {
    let digits = mantissa.unsigned_abs().to_string();
    write_digits(mantissa < 0, &digits, u16::try_from(scale).unwrap_or(0), out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn n(text: &str) -> Numeric {
        Numeric::parse(text).expect("a number")
    }

    fn shown(value: Numeric) -> String {
        let mut out = Vec::new();
        value.write(&mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn quotients_have_the_digits_of_postgres() {
        let div = |a, b| shown(n(a).div(&n(b)).expect("a quotient"));
        assert_eq!(div("1", "3"), "0.33333333333333333333");
        assert_eq!(div("1", "1"), "1.00000000000000000000");
        assert_eq!(div("5", "1"), "5.0000000000000000");
        assert_eq!(div("3", "2"), "1.5000000000000000");
        assert_eq!(div("2000001", "2"), "1000000.500000000000");
        assert_eq!(div("10.00", "3"), "3.3333333333333333");
        assert_eq!(div("-1", "3"), "-0.33333333333333333333");
        assert_eq!(div("1", "7000000"), "0.000000142857142857142857");
    }

    #[test]
    fn values_are_shown_as_written() {
        for text in ["0", "1.50", "-0.001", "123456789012345678901234567890.5", "NaN"] {
            assert_eq!(shown(n(text)), text);
        }
        assert_eq!(shown(n("1.5e3")), "1500");
        assert_eq!(shown(n(" 1.5e-3 ")), "0.0015");
        assert_eq!(shown(n(".5")), "0.5");
        assert_eq!(shown(n("-inf")), "-Infinity");
    }

    #[test]
    fn rounding_is_half_away_from_zero() {
        assert_eq!(shown(n("2.5").round(0).expect("rounds")), "3");
        assert_eq!(shown(n("-2.5").round(0).expect("rounds")), "-3");
        assert_eq!(shown(n("149").round(-2).expect("rounds")), "100");
        assert_eq!(shown(n("1.25").round(4).expect("rounds")), "1.2500");
        assert_eq!(shown(n("-1.5").whole(true).expect("ceil")), "-1");
        assert_eq!(shown(n("-1.5").whole(false).expect("floor")), "-2");
        assert_eq!(shown(n("2").sqrt().expect("root")), "1.414213562373095");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let error = n("1000").to_decimal(5, 2).expect_err("too large");
        assert_eq!(error.sqlstate, SqlState::NUMERIC_VALUE_OUT_OF_RANGE);
        assert_eq!(n("999.994").to_decimal(5, 2).expect("fits"), 99_999);
        for text in ["", "1.2.3", "1e", "abc", "1 2", "+-1", "1e9999999999"] {
            assert!(Numeric::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn keys_order_as_the_numbers_do(a in any::<i64>(), s in 0u16..6, b in any::<i64>(),
                                        t in 0u16..6) {
            let x = Finite { mantissa: i256::from(a), scale: s };
            let y = Finite { mantissa: i256::from(b), scale: t };
            prop_assert_eq!(x.key().cmp(&y.key()), x.compare(&y));
        }

        #[test]
        fn values_survive_bytes(a in any::<i128>(), s in 0u16..40) {
            let x = Finite { mantissa: i256::from_i128(a), scale: s };
            prop_assert_eq!(Numeric::from_bytes(&x.to_bytes()).expect("own bytes"), x);
            prop_assert_eq!(Numeric::parse(&shown(x)).expect("own text"), x);
        }

        #[test]
        fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
            let _ = Numeric::from_bytes(&bytes);
        }
    }
}
